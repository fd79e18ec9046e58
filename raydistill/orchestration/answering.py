"""Which threads of the coordinator answer what.

Threads, and no event loop: Ray answers from them about 1.3 times as fast (docs/speed.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import ray

DECIDING, FOLLOWING, HALTING, LISTENING, STAYING = "deciding", "following", "halting", "listening", "staying"
THREADS = {DECIDING: 1, FOLLOWING: 64, HALTING: 4, LISTENING: 256, STAYING: 64}
"""Of methods that do not answer at once. Every worker of every trial listens; who listens, follows or stays while all of these wait is heard when one of those was answered, after ten
seconds, one, or ten. All are started with the actor, so they cannot be thousands."""
OTHERS = 4
"""Threads of all other methods. All of them may wait while an event is written, which takes minutes where a storage does not answer."""
Method = TypeVar("Method", bound=Callable[..., Any])


def deciding(method: Method) -> Method:
    """A method that changes the ladder, one after another."""
    return _by(DECIDING, method)


def following(method: Method) -> Method:
    """A method that waits for news of a trial, for a second."""
    return _by(FOLLOWING, method)


def halting(method: Method) -> Method:
    """A method by which a trial, or all of them, end; one may wait for the end of the campaign."""
    return _by(HALTING, method)


def listening(method: Method) -> Method:
    """A method that waits until a trial's process is told something, for up to ten seconds."""
    return _by(LISTENING, method)


def staying(method: Method) -> Method:
    """A method that waits for what workers whose trial is over do next, for up to ten seconds."""
    return _by(STAYING, method)


def _by(threads: str, method: Method) -> Method:
    return cast(Method, ray.method(concurrency_group=threads)(method))
