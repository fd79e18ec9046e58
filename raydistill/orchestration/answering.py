"""Which threads of the coordinator answer what.

Threads, and no event loop: Ray answers from them half as fast again (docs/speed.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import ray

DECIDING, FOLLOWING, LISTENING = "deciding", "following", "listening"
THREADS = {DECIDING: 1, FOLLOWING: 64, LISTENING: 128}
"""Of methods that do not answer at once. Whoever follows or listens while all of them wait is answered when one of those has been: in a second, or ten."""
OTHERS = 4
"""Threads of all other methods. One may wait there for the end of the campaign."""
Method = TypeVar("Method", bound=Callable[..., Any])


def deciding(method: Method) -> Method:
    """A method that changes the ladder, one after another."""
    return _by(DECIDING, method)


def following(method: Method) -> Method:
    """A method that waits for news of a trial, for a second."""
    return _by(FOLLOWING, method)


def listening(method: Method) -> Method:
    """A method that waits until a trial's process is told something, for up to ten seconds."""
    return _by(LISTENING, method)


def _by(threads: str, method: Method) -> Method:
    return cast(Method, ray.method(concurrency_group=threads)(method))
