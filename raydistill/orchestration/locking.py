"""One driver per run: a lock that dies with the process that holds it; on other file systems a lease that runs out."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raydistill.errors import RunDirectoryError, StorageError
from raydistill.orchestration import lease
from raydistill.orchestration.runstore import RunStore

LOCK = ".lock"


@contextmanager
def locked(place: str | Path | RunStore) -> Iterator[Callable[[], None]]:
    """Hold a run for one driver. A crash leaves nothing to clean up: the lock dies with the process, a lease runs out.

    Yields:
        A function that raises when the run is no longer held.

    Raises:
        RunDirectoryError: another driver holds it.
        StorageError: the directory cannot be written.
    """
    store = RunStore.at(place)
    if store.remote is None:
        with _flocked(store.root):
            yield _certain
        return
    held = lease.Lease(store.remote)
    held.take()
    try:
        yield held.check
    finally:
        held.release()


def is_held(place: str | Path | RunStore) -> bool:
    """Whether a driver is writing a run just now; of a local run, a driver on this machine."""
    store = RunStore.at(place)
    if store.remote is not None:
        return lease.is_valid(lease.read(store.remote))
    try:
        descriptor = os.open(store.root / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def _flocked(root: Path) -> Iterator[None]:
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


def _certain() -> None:
    """A lock of this machine's cannot be lost."""
