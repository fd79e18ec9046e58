"""Locks of files that die with whoever holds them; and file systems that have none, which must not pass for files that somebody holds."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from raydistill.errors import StorageError

HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""What the system says when another process has the lock."""


def is_locked(descriptor: int, path: Path, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until its descriptor is closed; False where another process holds it.

    Args:
        descriptor: of the file.
        path: where it lies, for whoever reads the error.
        shared: with all others that ask so.
        wait: until whoever holds it has let go.

    Raises:
        StorageError: its file system knows no locks.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(descriptor, how)
    except OSError as problem:
        if problem.errno in HELD:
            return False
        raise StorageError(
            f"{path} cannot be locked: {problem.strerror}",
            expected="a file system with locks (flock) between processes",
            consequence="two processes would write the same files, and neither would know",
            remedy="mount it with locks (Lustre: the option `flock`; NFS: not `nolock`, and with the server's lock service running), or "
            "choose a folder of another file system or a bucket",
        ) from problem
    return True


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file; nobody where there is no such file.

    Raises:
        OSError: it is there and cannot be opened.
        StorageError: its file system knows no locks.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not is_locked(descriptor, path, shared=True)
    finally:
        os.close(descriptor)


def sign(descriptor: int, path: Path, holder: str) -> None:
    """Write into a file that is locked who holds it, in place of whoever held it before, for other machines to read.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
        # A file server is otherwise sent it when the file is closed, which is when nobody holds it any more.
        os.fsync(descriptor)
    except OSError as problem:
        raise StorageError(
            f"{path} cannot be written: {problem.strerror}",
            consequence="others would not know who holds it",
            remedy="make room, or choose another folder, then run again with --resume",
        ) from problem


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only process of this machine that writes a folder; others wait. The lock dies with its process.

    Raises:
        StorageError: its file system knows no locks.
    """
    descriptor = lock_file(folder.with_name(f".{folder.name}.lock"))
    try:
        is_locked(descriptor, folder, wait=True)
        yield
    finally:
        os.close(descriptor)


def lock_file(path: Path) -> int:
    """Descriptor of a file that is there to be locked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
