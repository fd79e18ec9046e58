"""One writer per trial directory: a process that was given up may still be running when its successor starts."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from raydistill.errors import StorageError, TrialError
from raydistill.flocks import is_locked, sign
from raydistill.orchestration.processes import running, this_process

logger = logging.getLogger(__name__)
NAME = ".lock"
NAME_BYTES = 1000
PATIENCE_SECONDS = 10.0
HOLD_SECONDS = 300.0
"""A machine that lost its power holds its locks on a file server until its lease runs out, which is 90 seconds on Linux and twice that on others."""


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold a trial's directory.

    The coordinator hands a trial out once at a time, so a process that still holds it was given up: after PATIENCE_SECONDS it is killed,
    if it runs on this machine.

    Raises:
        TrialError: it did not let go.
        StorageError: the directory cannot be made, or its file system knows no locks.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        raise StorageError(f"{directory}: {problem.strerror}", remedy="make room, then resume the run") from problem
    try:
        _wait(directory, descriptor)
        sign(descriptor, directory, json.dumps(this_process()))
        yield
    finally:
        os.close(descriptor)


def _wait(directory: Path, descriptor: int) -> None:
    began, killed = time.monotonic(), False
    while not is_locked(descriptor, directory):
        waited = time.monotonic() - began
        if waited > PATIENCE_SECONDS and not killed:
            killed = _kill_holder(directory, descriptor)
        if waited > HOLD_SECONDS:
            raise TrialError(f"{directory} is still written by another process", expected="one writer per trial")
        time.sleep(0.1)


def _kill_holder(directory: Path, descriptor: int) -> bool:
    """Kill the process that holds the lock, where it can be reached; whoever holds it has written into it who it is.

    Never another one: on a file server the holder may be of a machine of the same name, where its number is somebody else's.
    """
    try:
        holder = running(json.loads(os.pread(descriptor, NAME_BYTES, 0)))
    except (ValueError, AttributeError):
        return False
    if holder is None or holder.pid == os.getpid():
        return False
    logger.warning("%s: process %d was given up and is still running; it is killed", directory, holder.pid)
    with contextlib.suppress(psutil.Error):
        holder.kill()
    return True
