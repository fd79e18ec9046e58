"""The depot of a machine: datasets and checkpoints of other file systems, fetched once, verified, and shared by all processes.

    $XDG_CACHE_HOME/raydistill/depot/<SHA-256 of the manifest>/      (else ~/.cache/...)
    $XDG_CACHE_HOME/raydistill/announced/<machine>/<digest>/           teachers that were only announced: while a trial of the machine learns from them

Everything below may be removed whenever nothing runs: it is fetched again. A folder is fetched aside and renamed, under a lock that dies with its process,
so neither a twin nor a kill in the middle leaves half of one under its name. Whoever fetches one removes what no process uses (`uses.py`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from raydistill.errors import CheckpointError, DataError, RayDistillError
from raydistill.flocks import alone
from raydistill.kg.manifest import read_manifest
from raydistill.kg.store import verify_files
from raydistill.orchestration.patience import explained
from raydistill.orchestration.remote import MANIFEST, RemoteFolder
from raydistill.orchestration.uses import Uses, prune


@dataclass(frozen=True)
class Depot:
    """Brings folders to this machine. It may be sent to other machines, and then serves them.

    Attributes:
        filesystem: where paths without a scheme lie; None = on this machine.
    """

    filesystem: fs.FileSystem | None = None

    def is_needed(self, place: str) -> bool:
        """Whether a place lies elsewhere."""
        return RemoteFolder.at(place, self.filesystem) is not None

    def dataset(self, place: str, uses: Uses | None = None) -> Path:
        """The local folder with the dataset of a place.

        Args:
            place: where it lies.
            uses: of whoever asks: it stays until these are over. None = for hours.

        Raises:
            DataError: there is none, or it is damaged.
            StorageError: it cannot be brought here.
        """
        return self._bring(place, _verify_dataset, DataError, "a dataset directory", uses)

    def checkpoint(
        self, place: str, verify: Callable[[str], str], folder: Path | None = None, uses: Uses | None = None
    ) -> Path:
        """The local folder with the checkpoint of a place.

        Args:
            place: where it lies.
            verify: refuses a damaged one.
            folder: where it is kept, by whoever asks; None = in the depot.
            uses: as for a dataset.

        Raises:
            CheckpointError: there is none, or it is damaged.
            StorageError: it cannot be brought here.
        """
        kind = CheckpointError, "a checkpoint directory"
        return self._bring(place, lambda path: verify(str(path)), *kind, uses, folder)

    def _bring(
        self,
        place: str,
        verify: Callable[[Path], object],
        error: type[RayDistillError],
        expected: str,
        uses: Uses | None,
        folder: Path | None = None,
    ) -> Path:
        remote = RemoteFolder.at(place, self.filesystem)
        if remote is None:
            return local_path(place)
        manifest = remote.read(MANIFEST)
        if manifest is None:
            raise error(
                f"{remote.name}: no readable {MANIFEST}",
                expected=expected,
                consequence="there would be nothing to work on",
                remedy="check the place; a folder that was copied there has to have all of its files",
            )
        depot = cache_folder() / "depot"
        final = folder or depot / hashlib.sha256(manifest).hexdigest()
        with explained(f"{remote.name} cannot be kept below {cache_folder()}"):
            with alone(final):
                if folder is None:
                    # Before it is there: nobody removes it in between.
                    _use(final, uses)
                fetched = not _is_sound(final, verify)
                if fetched:
                    self._fetch(remote, final, verify)
            if fetched and folder is None:
                prune(depot)
        return final

    def _fetch(self, remote: RemoteFolder, final: Path, verify: Callable[[Path], object]) -> None:
        aside = final.with_name(f".{final.name}.aside")
        for leftover in (aside, final):
            shutil.rmtree(leftover, ignore_errors=True)
        remote.fetch(aside)
        try:
            verify(aside)
        except RayDistillError as problem:
            shutil.rmtree(aside, ignore_errors=True)
            # The reader knows the place, not the folder it was fetched into.
            received = problem.received.replace(str(aside), remote.name.partition("?")[0])
            parts = {name: getattr(problem, name) for name in ("expected", "consequence", "remedy")}
            raise type(problem)(received, **parts) from None
        os.replace(aside, final)


def cache_folder() -> Path:
    """Where this machine keeps what can be had again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raydistill"


def announced_folder() -> Path:
    """Where this machine keeps teachers that were only announced. Its own where a cache is shared: claims are not seen from another machine."""
    return cache_folder() / "announced" / os.uname().nodename


def local_path(place: str) -> Path:
    """A path from what may also be a `file://` URI."""
    return Path(fs.FileSystem.from_uri(place)[1]) if "://" in place else Path(place)


def _use(folder: Path, uses: Uses | None) -> None:
    if uses is not None:
        uses.claim(folder)
        return
    # The time of this use protects it for hours.
    with Uses() as moment:
        moment.claim(folder)


def _is_sound(path: Path, verify: Callable[[Path], object]) -> bool:
    if not path.exists():
        return False
    try:
        verify(path)
    except RayDistillError:
        return False
    return True


def _verify_dataset(path: Path) -> None:
    verify_files(path, read_manifest(path)["files"])
