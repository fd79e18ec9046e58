"""One driver per run: a lock that dies with the process that holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raydistill.errors import RunDirectoryError, StorageError

LOCK = ".lock"


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold a run for one driver. The lock dies with the process, so a crash leaves nothing to clean up.

    Raises:
        RunDirectoryError: another driver holds it.
        StorageError: the directory cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        raise StorageError(
            f"{root}: {problem.strerror}", expected="a directory that can be written", remedy="choose another --run-dir"
        ) from problem
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip() or "another process"
            raise RunDirectoryError(
                f"{root} is in use by {holder}",
                expected="one driver per run",
                consequence="two campaigns would write one ledger",
                remedy="wait for it, stop it, or choose another --run-dir",
            ) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_held(root: Path) -> bool:
    """Whether a driver on this machine is writing a run just now."""
    try:
        descriptor = os.open(root / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
