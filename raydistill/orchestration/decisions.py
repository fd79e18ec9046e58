"""Decisions that need files: written once, and made by one thread that lets others look at the state while its files are copied.

A decision is a generator. What copies or verifies files it yields, as a function without arguments that touches no state, and it is sent what that
returned; everything else it does itself, between two yields.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

T = TypeVar("T")
Decision = Generator[Callable[[], Any], Any, T]


def decided(decision: Decision[T], hold: Callable[[], AbstractContextManager[Any]] = nullcontext) -> T:
    """Make a decision; returns when its files are done.

    Args:
        decision: what is to be decided. That no other one is made meanwhile is the caller's business.
        hold: gives what is held while the decision looks at its state or changes it, and not while it does its files.
    """
    found = None
    while True:
        with hold():
            try:
                work = decision.send(found)
            except StopIteration as end:
                answer: T = end.value
                return answer
        found = work()
