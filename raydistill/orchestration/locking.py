"""One driver per run: a lock that dies with the process that holds it; on other file systems a lease that runs out."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raydistill import flocks
from raydistill.errors import RunDirectoryError, StorageError
from raydistill.flocks import is_locked, sign
from raydistill.orchestration import lease, watching
from raydistill.orchestration.processes import is_of_this_machine, this_process
from raydistill.orchestration.runstore import RunStore

logger = logging.getLogger(__name__)
LOCK = ".lock"
LOCK_BYTES = 1000
ELSEWHERE_SECONDS = 120.0
"""A machine that lost its power holds its locks on a file server for some 90 seconds more."""
LOOK_SECONDS = 1.0


@contextmanager
def locked(place: str | Path | RunStore, heed: Callable[[], None] = lambda: None) -> Iterator[Callable[[], None]]:
    """Hold a run for one driver. A crash leaves nothing to clean up: the lock dies with the process, a lease runs out.

    Args:
        place: the run.
        heed: called again and again while another machine's hold is waited for; raises where the wait is to end.

    Yields:
        A function that raises when the run is no longer held.

    Raises:
        RunDirectoryError: another driver holds it.
        StorageError: the directory cannot be written, or its file system knows no locks.
    """
    store = RunStore.at(place)
    if store.remote is None:
        with _flocked(store.root, heed):
            yield _certain
        return
    held = lease.Lease(store.remote)
    held.take(heed)
    try:
        yield held.check
    finally:
        held.release()


def is_held(place: str | Path | RunStore) -> bool:
    """Whether a driver is writing a run just now; of a local run, a driver on this machine."""
    store = RunStore.at(place)
    if store.remote is not None:
        return watching.is_held(store.remote)
    try:
        return flocks.is_held(store.root / LOCK)
    except (OSError, StorageError):
        # No driver writes where it cannot lock.
        return False


@contextmanager
def _flocked(root: Path, heed: Callable[[], None]) -> Iterator[None]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        raise StorageError(
            f"{root}: {problem.strerror}", expected="a directory that can be written", remedy="choose another --run-dir"
        ) from problem
    try:
        _wait(root, descriptor, heed)
        process = this_process()
        sign(descriptor, root, f"process {process['pid']} on {os.uname().nodename}\n{json.dumps(process)}\n")
        yield
    finally:
        os.close(descriptor)


def _wait(root: Path, descriptor: int, heed: Callable[[], None]) -> None:
    """Take the lock. A holder of this machine is alive; one of another machine may have lost its power, and is waited for."""
    began, told = time.monotonic(), False
    while not is_locked(descriptor, root):
        holder, elsewhere = _holder(descriptor)
        if not elsewhere or time.monotonic() - began > ELSEWHERE_SECONDS:
            raise RunDirectoryError(
                f"{root} is in use by {holder}",
                expected="one driver per run",
                consequence="two campaigns would write one ledger",
                remedy="wait for it, stop it, or choose another --run-dir",
            )
        if not told:
            logger.warning(
                "%s is locked by %s, of another machine; waited for up to %g s, in case that has lost its power and the file server has not noticed yet",
                root,
                holder,
                ELSEWHERE_SECONDS,
            )
            told = True
        heed()
        time.sleep(LOOK_SECONDS)


def _holder(descriptor: int) -> tuple[str, bool]:
    """Who holds the lock, and whether it is known to be a process of another machine."""
    text = os.pread(descriptor, LOCK_BYTES, 0).decode(errors="replace")
    name, _, identity = text.partition("\n")
    try:
        process = json.loads(identity)
    except ValueError:
        # Older releases wrote the name alone; and whoever is just writing has written nothing yet.
        process = None
    return name.strip() or "another process", isinstance(process, dict) and not is_of_this_machine(process)


def _certain() -> None:
    """A lock of this machine's cannot be lost."""
