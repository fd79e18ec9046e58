"""Where Ray Tune and Ray Train keep files of their own while a study or a trial runs. Nothing of it is read by us, or outlives them."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from raydistill.orchestration.remote import RemoteFolder
from raydistill.orchestration.runstore import RunStore

FOLDER = ".tune"


@dataclass(frozen=True)
class TuneStorage:
    """A folder that all machines of a study reach, in the terms of Ray.

    Attributes:
        path: on `filesystem`.
        filesystem: None = of this machine.
        remote: the folder, where the run lies elsewhere.
    """

    path: str
    filesystem: fs.FileSystem | None = None
    remote: RemoteFolder | None = None

    @classmethod
    def of(cls, store: RunStore, local: Path | None = None) -> TuneStorage:
        """A new one beside a run; `local` = where it may lie if the run is local."""
        name = f"{FOLDER}/{uuid.uuid4().hex[:8]}"
        if store.remote is None:
            return cls(str(local.absolute() if local is not None else store.root / name))
        remote = store.remote.below(name)
        return cls(remote.folder, remote.filesystem, remote)

    def remove(self) -> None:
        """Remove it."""
        if self.remote is not None:
            self.remote.remove()
        else:
            shutil.rmtree(self.path, ignore_errors=True)


def clear_scratch(store: RunStore) -> None:
    """Remove what processes that died have left."""
    if store.remote is not None:
        store.remote.below(FOLDER).remove()
    else:
        shutil.rmtree(store.root / FOLDER, ignore_errors=True)
