"""Arrow files that are read where they lie, with the digest of their bytes beside them.

    NAME.arrow    NAME.sha256

The digest is checked before Arrow sees the file: a damaged one does not only hold wrong numbers, it may end the process that maps it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path

import pyarrow as pa

DIGEST = ".sha256"


def write_arrow(table: pa.Table, path: Path) -> None:
    """Write a table aside and rename it; its digest comes first, so that a file is never without one.

    Raises:
        OSError: there is no room, or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside, digest = path.with_suffix(f".{os.getpid()}.aside"), path.with_suffix(f".{os.getpid()}{DIGEST}")
    try:
        with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        digest.write_text(_digest(aside))
        os.replace(digest, path.with_suffix(DIGEST))
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
        digest.unlink(missing_ok=True)


def read_arrow(path: Path) -> pa.Table | None:
    """The table in a file, memory-mapped; None where it is not there, or not what was written."""
    try:
        if path.with_suffix(DIGEST).read_text() != _digest(path):
            return None
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, ValueError, pa.ArrowException):
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return hashlib.sha256(content).hexdigest()
