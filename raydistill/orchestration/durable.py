"""Files and folders that are whole under their names, and still there after a loss of power."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK, errno.EINVAL)
"""What file systems say that know no hard links, or no more of them."""


def sync(path: str | Path) -> None:
    """Have a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: str, target: str) -> str:
    """Give a file a second name; or copy it, and have the copy on disk, where the file system knows no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        sync(target)
    return target


def put(aside: Path, final: Path) -> None:
    """Give a folder, whose files are on disk, its final name."""
    for folder, _, _ in os.walk(aside):
        sync(folder)
    os.replace(aside, final)
    sync(final.parent)


def publish(final: str, aside: str, content: bytes) -> None:
    """Write a file that is nobody else's to write; `aside` is a name beside it that no other process uses.

    Between two machines there may be no lock on what both have mounted, but of two links of one name one wins.

    Raises:
        FileExistsError: it is there already, and stays as it is.
        OSError: it cannot be written, and is not there.
    """
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _name(aside, final)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(aside)
    try:
        sync(os.path.dirname(final))
    except OSError:
        os.unlink(final)
        raise


def _name(aside: str, final: str) -> None:
    try:
        os.link(aside, final)
    except FileExistsError:
        # A file server whose answer was lost is asked twice.
        if not os.path.samefile(aside, final):
            raise
    except OSError as problem:
        if problem.errno not in NO_LINKS:
            raise
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), final) from None
        os.replace(aside, final)
