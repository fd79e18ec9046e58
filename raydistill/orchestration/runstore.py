"""Where a run lies. A local run is a folder and nothing more. Any other has its truth on another file system, and a working folder on every machine:

RUN/.identity                                    names this run, a local one, too: a new one in the same place takes up nothing of an old one, and who sees another
                                                 folder under the same path is told (see premises.py)
$XDG_CACHE_HOME/raydistill/runs/<identity>/      grades/<grade>/trials/...: what this machine is working on; may be removed when nothing runs
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyarrow import fs

from raydistill.errors import RunDirectoryError, StorageError
from raydistill.orchestration.depot import cache_folder, local_path
from raydistill.orchestration.ledger import Ledger
from raydistill.orchestration.remote import RemoteFolder, joined
from raydistill.orchestration.variables import Variables

IDENTITY = ".identity"


@dataclass(frozen=True)
class RunStore:
    """One run, wherever it lies. It may be sent to other machines.

    Attributes:
        place: how people call it: an absolute path, a URI, or a path of the file system it was given with.
        remote: where it lies; None = on this machine, or where all machines see it under one path.
        identity: names it; empty = not looked up yet.
        variables: what its processes get in their environment, as credentials are.
    """

    place: str
    remote: RemoteFolder | None = None
    identity: str = ""
    variables: Variables | None = None

    @classmethod
    def at(cls, place: str | Path | RunStore, filesystem: fs.FileSystem | None = None) -> RunStore:
        """The run at a path, a URI that pyarrow knows, or a path of `filesystem`.

        Raises:
            ConfigError: pyarrow does not know the URI.
        """
        if isinstance(place, RunStore):
            return place
        remote = RemoteFolder.at(str(place), filesystem)
        if remote is not None:
            return cls(remote.name, remote)
        return cls(str(local_path(str(place)).absolute()))

    def __reduce__(self) -> tuple[Any, ...]:
        # The variables first: a file system may look for its region or endpoint among them as soon as it is made.
        return _arrived, (self.variables, self.place, self.remote, self.identity)

    @property
    def root(self) -> Path:
        """The folder on this machine: the run itself, or where this machine works on it."""
        if self.remote is None:
            return Path(self.place)
        assert self.identity, "a run elsewhere has to be claimed before it is worked on"
        return cache_folder() / "runs" / self.identity

    def claimed(self) -> RunStore:
        """The same run, with an identity. Only the driver that holds the run may call it."""
        if self.identity:
            return self
        known = self.read(IDENTITY)
        identity = uuid.uuid4().hex if known is None else known.decode(errors="replace").strip()
        if not identity.isalnum():
            raise RunDirectoryError(
                f"{self.place}: {IDENTITY} is damaged",
                expected="the name that raydistill wrote",
                remedy=f"remove {IDENTITY}; what machines have not sent yet to a run elsewhere is then trained again",
            )
        if known is None:
            self.write(IDENTITY, f"{identity}\n".encode())
        return replace(self, identity=identity)

    def ledger(self, folder: str) -> Ledger:
        """A ledger of the run, by the name of its folder."""
        if self.remote is None:
            return Ledger.at(self.root / folder)
        return Ledger(self.remote.filesystem, f"{self.remote.folder}/{folder}")

    def read(self, name: str) -> bytes | None:
        """A small file of the run; None where there is none.

        Raises:
            StorageError: it is there and cannot be read.
        """
        if self.remote is not None:
            return self.remote.read(name)
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as problem:
            raise StorageError(f"{self.root / name}: {problem.strerror}", remedy="make it readable") from problem

    def write(self, name: str, content: bytes) -> None:
        """Save a small file, whole or not at all.

        Raises:
            StorageError: there is no room, or no permission.
        """
        if self.remote is not None:
            self.remote.write(name, content)
        else:
            write_aside(self.root / name, content)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Save a mapping as JSON."""
        self.write(name, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())

    def send(self, name: str) -> None:
        """Put a file of this machine's working folder where the run lies; a local run has it already."""
        if self.remote is not None and (self.root / name).exists():
            folder, _, file = name.rpartition("/")
            self.remote.below(folder).write(file, (self.root / name).read_bytes())

    def names(self) -> list[str]:
        """What lies in the run directory; nothing where there is none."""
        if self.remote is not None:
            return self.remote.names()
        return sorted(path.name for path in self.root.iterdir()) if self.root.exists() else []

    def folders(self, relative: str) -> list[str]:
        """Names of the folders directly inside a folder of the run, or in the run; none where there is no such folder.

        Raises:
            StorageError: it cannot be listed.
        """
        if self.remote is not None:
            return self.remote.below(relative).folders()
        folder = self.root / relative
        try:
            return sorted(path.name for path in folder.iterdir() if os.path.isdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as problem:
            raise StorageError(f"{folder}: {problem.strerror}", remedy="make it readable") from problem

    def below(self, relative: str) -> RunStore:
        """What lies inside, as if it were a run; one that is looked at, and not worked on."""
        if self.remote is None:
            return RunStore(str(self.root / relative))
        folder = self.remote.below(relative)
        return RunStore(folder.name, folder)

    def above(self) -> RunStore:
        """The folder that it lies in, likewise."""
        if self.remote is None:
            return RunStore(str(self.root.parent))
        folder = self.remote.above()
        return RunStore(folder.name, folder)

    @property
    def name(self) -> str:
        """The last part of its place."""
        return (self.place if self.remote is None else self.remote.folder).rpartition("/")[2]

    def located(self, relative: str) -> str:
        """The place of something in the run."""
        return str(self.root / relative) if self.remote is None else joined(self.place, relative)

    def relative(self, place: str) -> str | None:
        """The reverse of `located`; None for what lies elsewhere."""
        if self.remote is None:
            path = Path(place)
            return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else None
        start, _, query = self.place.partition("?")
        inside, _, same = place.partition("?")
        return inside[len(start) + 1 :] if inside.startswith(f"{start}/") and query == same else None

    def inside(self, place: str) -> RemoteFolder:
        """The folder of something that lies in a run elsewhere."""
        relative = self.relative(place)
        assert self.remote is not None, "the run is local"
        assert relative is not None, f"{place} does not lie in {self.place}"
        return self.remote.below(relative)


def _arrived(variables: Variables | None, place: str, remote: RemoteFolder | None, identity: str) -> RunStore:
    return RunStore(place, remote, identity, variables)


def write_aside(path: Path, content: bytes) -> None:
    """Write a file under another name, sync it, and rename it.

    Raises:
        StorageError: there is no room, or no permission.
    """
    aside = path.with_name(f".{path.name}.aside")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as problem:
        raise StorageError(
            f"{path}: {problem.strerror}",
            expected="room in the run directory",
            remedy="make room, then run again with --resume",
        ) from problem
