"""Teacher outputs on disk: Arrow files that are read where they lie.

fingerprint  int64, ascending      vector  float32[hidden]
state        float32[layers * hidden] of each masked token      offset  where each text's masked tokens begin
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydistill.data.arrow import read_arrow, write_arrow
from raydistill.errors import StorageError

KEPT = "teacher"
"""The folder beside the trials of a grade where they lie."""


@dataclass(frozen=True)
class Shard:
    """A teacher's outputs for some texts.

    Args:
        fingerprints: `(texts,)` int64, ascending.
        vectors: `(texts, hidden)` float32.
        offsets: `(texts + 1,)` int64, where the masked tokens of each text begin.
        states: `(masked tokens, layers, hidden)` float32; no layers where none are wanted.
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


@contextmanager
def claimed(path: Path, *, wait: bool) -> Iterator[Path | None]:
    """Be the only process that writes a file; None where another one is, unless it is waited for. The claim dies with its process."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        raise _unwritable(path, problem) from problem
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        yield path
    finally:
        os.close(descriptor)


def _unwritable(path: Path, problem: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {problem}",
        expected="room for the teacher's outputs",
        consequence="the teacher would have to encode every text again in every epoch",
        remedy="make room, or set training.remember_teacher to false",
    )
