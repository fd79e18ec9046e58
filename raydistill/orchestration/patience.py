"""Patience with file systems behind a network, and what to tell the reader when it is at its end."""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

import pyarrow as pa

from raydistill.errors import StorageError

logger = logging.getLogger(__name__)
PAUSES = (0.5, 1.0, 2.0, 4.0, *[8.0] * 22)
"""Seconds between the attempts of one operation, three minutes in all; pyarrow's own clients try a few times before each of them fails."""
JITTER = 0.25
"""The part of a pause by which it may be longer or shorter: the streams of many machines would else come back in one moment to a storage that asked for less."""
PATIENCE_SECONDS = 180.0
"""No attempt begins later, however long each of them took: a bucket that slows down, a name server or a source of credentials is back by then, or not soon."""
HURRY_SECONDS = 7.5
"""The same where the process was told to end, and has a few seconds left."""
LOOK_SECONDS = 0.5
"""Between looks at whether it was."""
TOLD_AT = 2
"""After so many pauses, about two seconds, it is no hiccup, and said aloud."""
LASTING = ("ACCESS_DENIED", "PERMISSION_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")
"""What S3 and Google say when asking again would not help. Not that a token has expired: whoever gave it gives another one."""
LASTING_KINDS = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)
LASTING_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG)
T = TypeVar("T")
_chance = random.Random()
"""Of its own: training draws from the global one, and its results must not depend on a network."""
_hurries: list[Callable[[], bool]] = []
_once: ContextVar[bool] = ContextVar("_once", default=False)
_leaving: ContextVar[bool] = ContextVar("_leaving", default=False)


def patiently(act: Callable[[], T]) -> T:
    """Do something that a network may spoil, for minutes if need be, with growing pauses.

    Raises:
        OSError: the last time too; or it is of the kind that does not pass.
    """
    # A driver that was told to end, or interrupted, or that has waited in vain already, is on its way out of whatever called this.
    leaving = _leaving.get() or isinstance(sys.exception(), (SystemExit, KeyboardInterrupt, StorageError))
    began = time.monotonic()
    for number, pause in enumerate(() if _once.get() else PAUSES):
        try:
            return act()
        except OSError as problem:
            if _lasts(problem):
                raise
            _tell(number, problem)
            if not _paused(pause, began, leaving):
                raise
    return act()


@contextlib.contextmanager
def once() -> Iterator[None]:
    """Let this thread try everything a single time: whoever comes back by itself has no use for patience."""
    token = _once.set(True)
    try:
        yield
    finally:
        _once.reset(token)


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Let this thread be patient for seconds only: what it did is done, and others may wait for it to go."""
    token = _leaving.set(True)
    try:
        yield
    finally:
        _leaving.reset(token)


@contextlib.contextmanager
def hurried(told: Callable[[], bool]) -> Iterator[None]:
    """Let all threads of this process be patient for seconds only, from when it is told to end.

    Args:
        told: whether it was; answers at once.
    """
    _hurries.append(told)
    try:
        yield
    finally:
        _hurries.remove(told)


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what a file system says into an error that says what to do.

    Raises:
        StorageError: it said something.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as problem:
        raise StorageError(
            f"{what}: {problem}",
            expected="a file system that answers, with room and permission",
            consequence="results would be lost, or be incomplete",
            remedy="check the place, the credentials in the environment and the network, then run again with --resume",
        ) from problem


def _lasts(problem: OSError) -> bool:
    if isinstance(problem, LASTING_KINDS) or problem.errno in LASTING_NUMBERS:
        return True
    return any(word in str(problem) for word in (*LASTING, "No space left"))


def _tell(number: int, problem: OSError) -> None:
    if number == TOLD_AT:
        logger.warning("storage does not answer; it is asked again for up to %g s: %s", PATIENCE_SECONDS, problem)
    else:
        logger.info("tried again soon: %s", problem)


def _paused(pause: float, began: float, leaving: bool) -> bool:
    """Whether there is patience left after a pause."""
    until = time.monotonic() + pause * _chance.uniform(1 - JITTER, 1 + JITTER)
    while True:
        now = time.monotonic()
        hurry = leaving or any(told() for told in list(_hurries))
        if now - began >= (HURRY_SECONDS if hurry else PATIENCE_SECONDS):
            return False
        if now >= until:
            return True
        time.sleep(min(LOOK_SECONDS, until - now))
