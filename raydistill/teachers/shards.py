"""Teacher outputs on disk: Arrow files that are read where they lie.

    KEPT/<teacher>/<view>/query-00000.arrow ...      KEPT/<teacher>.lock

fingerprint  int64, ascending      vector  float32[hidden]
state        float32[layers * hidden] of each masked token      offset  where each text's masked tokens begin
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydistill.data.arrow import read_arrow, write_arrow
from raydistill.errors import StorageError
from raydistill.flocks import is_locked, lock_file

KEPT = "teacher"
"""The folder beside the trials of a grade where they lie."""
LOOK_SECONDS = 0.05
"""Between looks at a file that another process is at."""


@dataclass(frozen=True)
class Shard:
    """A teacher's outputs for some texts.

    Args:
        fingerprints: `(texts,)` int64, ascending.
        vectors: `(texts, hidden)` float32.
        offsets: `(texts + 1,)` int64, where the kept tokens of each text begin: masked ones, or all.
        states: `(kept tokens, columns, hidden)` float32, see `features.columns_of`; no columns where none are wanted.
    """

    fingerprints: NDArray[np.int64]
    vectors: NDArray[np.float32]
    offsets: NDArray[np.int64]
    states: NDArray[np.float32]


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard aside and rename it.

    Raises:
        StorageError: there is no room, or the folder cannot be written.
    """
    columns: dict[str, NDArray[Any]] = {
        "fingerprint": shard.fingerprints,
        "vector": shard.vectors.reshape(-1),
        "offset": shard.offsets,
        "state": shard.states.reshape(-1),
    }
    # One row of four lists, because columns have to be of one length.
    lists = {
        name: pa.LargeListArray.from_arrays([0, len(column)], pa.array(column)) for name, column in columns.items()
    }
    shape = {"hidden": str(shard.vectors.shape[1]), "layers": str(shard.states.shape[1])}
    try:
        write_arrow(pa.table(lists).replace_schema_metadata(shape), path)
    except OSError as problem:
        raise _unwritable(path, problem) from problem


def read_shard(path: Path) -> Shard | None:
    """A shard as it lies on disk, memory-mapped; None where it is not there, or not what was written."""
    table = read_arrow(path)
    if table is None:
        return None
    parts = {name: table[name].chunk(0).values.to_numpy(zero_copy_only=True) for name in table.column_names}
    hidden, layers = (int(table.schema.metadata[name]) for name in (b"hidden", b"layers"))
    vectors, states = parts["vector"].reshape(-1, hidden), parts["state"].reshape(parts["offset"][-1], layers, hidden)
    return Shard(parts["fingerprint"], vectors, parts["offset"], states)


class KeptTeachers:
    """A folder for each teacher, and this process's claim on those it learns from, which dies with the process.

    A teacher that was only announced is gone after a few epochs, and its outputs, or its fetched checkpoint, may take gigabytes. Whoever turns to another one
    removes what no process has a claim on; a trial that comes back to such a teacher has it computed, or fetched, again.

    Args:
        root: the folder of the folders.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._claims: dict[Path, int] = {}

    def folder(self, teacher: str) -> Path:
        """The folder of a teacher, claimed until others are asked for.

        Args:
            teacher: digest of its checkpoint.

        Raises:
            StorageError: nothing can be written there, or its file system knows no locks.
        """
        return self.folders([teacher])[0]

    def folders(self, teachers: Sequence[str]) -> list[Path]:
        """The folders of teachers that teach together, claimed until others are asked for; raises as `folder` does."""
        wanted = [self.root / teacher[:16] for teacher in teachers]
        for folder in wanted:
            if folder not in self._claims:
                self._claims[folder] = _lock_file(folder)
                # Shared among all who use the folder, and waited for: somebody may be removing it.
                is_locked(self._claims[folder], folder, shared=True, wait=True)
        former = self._claims.keys() - set(wanted)
        for folder in former:
            os.close(self._claims.pop(folder))
        if former:
            self._remove_unclaimed()
        return wanted

    def close(self) -> None:
        """Give up the claims."""
        while self._claims:
            os.close(self._claims.popitem()[1])

    def _remove_unclaimed(self) -> None:
        for folder in [path for path in self.root.iterdir() if path.is_dir()]:
            descriptor = _lock_file(folder)
            try:
                # The lock's own file stays: whoever waits for it would else hold one that nobody sees.
                if is_locked(descriptor, folder):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def claimed(path: Path, *, wait: bool, meanwhile: Callable[[], None] = lambda: None) -> Iterator[Path | None]:
    """Be the only process that writes a file; None where another one is, unless it is waited for. The claim dies with its process.

    Args:
        path: the file.
        wait: for as long as another process is at it.
        meanwhile: called again and again then; what it raises ends the wait.
    """
    descriptor = _lock_file(path)
    try:
        while not is_locked(descriptor, path):
            if not wait:
                yield None
                return
            meanwhile()
            # Not left to the system: a call that waits there cannot be told to end.
            time.sleep(LOOK_SECONDS)
        yield path
    finally:
        os.close(descriptor)


def _lock_file(path: Path) -> int:
    """Descriptor of the lock beside a file or folder."""
    try:
        return lock_file(path.with_suffix(".lock"))
    except OSError as problem:
        raise _unwritable(path, problem) from problem


def _unwritable(path: Path, problem: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {problem}",
        expected="room for what is kept of teachers",
        consequence="a teacher would be fetched, or encode every text, again in every epoch",
        remedy="make room; with training.remember_teacher false no outputs are kept",
    )
