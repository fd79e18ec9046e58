"""Places on the command line: local folders, or URIs of other file systems, from which is fetched what a command reads."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click


class Folder(click.Path):
    """A folder that has to be there; a URI is looked at when it is needed."""

    name = "folder or uri"

    def __init__(self) -> None:
        super().__init__(exists=True, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The place as it was given."""
        return value if "://" in str(value) else super().convert(value, param, ctx)


def checkpoint_here(place: str) -> str:
    """The local folder of a checkpoint, fetched and verified where it lies elsewhere.

    Raises:
        CheckpointError: there is none, or it is damaged.
        ConfigError: nobody knows the URI.
        StorageError: it cannot be fetched.
    """
    if "://" not in place:
        return place
    from raydistill.orchestration.depot import Depot
    from raydistill.training.manifest import verify_checkpoint

    return str(Depot().checkpoint(place, verify_checkpoint))


def dataset_here(place: str) -> str:
    """The local folder of a dataset, fetched and verified where it lies elsewhere.

    Raises:
        DataError: there is none, or it is damaged.
        ConfigError: nobody knows the URI.
        StorageError: it cannot be fetched.
    """
    if "://" not in place:
        return place
    from raydistill.orchestration.depot import Depot

    return str(Depot().dataset(place))


@contextlib.contextmanager
def copied_here(place: str) -> Iterator[Path]:
    """A folder as it lies at a place, damage included; what lies elsewhere is there only for as long as it is looked at.

    Raises:
        ConfigError: nobody knows the URI.
        StorageError: it cannot be fetched.
    """
    if "://" not in place:
        yield Path(place)
        return
    from raydistill.orchestration.depot import local_path
    from raydistill.orchestration.remote import RemoteFolder

    remote = RemoteFolder.at(place)
    if remote is None:
        yield local_path(place)
        return
    with tempfile.TemporaryDirectory(prefix="raydistill-") as folder:
        remote.fetch(Path(folder))
        yield Path(folder)
