"""Patience with file systems behind a network, and what to tell the reader when it is at its end."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pyarrow as pa

from raydistill.errors import StorageError

logger = logging.getLogger(__name__)
PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds between the attempts of one operation; pyarrow's own clients try a few times before each of them fails."""
LASTING = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "EXPIRED_TOKEN")
"""What S3 says when asking again would not help."""
T = TypeVar("T")


def patiently(act: Callable[[], T]) -> T:
    """Do something that a network may spoil, a few times if need be, with growing pauses.

    Raises:
        OSError: the last time too; or it is of the kind that does not pass.
    """
    for pause in PAUSES:
        try:
            return act()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as problem:
            if any(word in str(problem) for word in LASTING):
                raise
            logger.info("tried again in %g s: %s", pause, problem)
            time.sleep(pause)
    return act()


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
