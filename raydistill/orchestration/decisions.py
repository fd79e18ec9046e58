"""Decisions that need files: written once, and made here and now, or with the files in a thread beside an event loop that goes on answering.

A decision is a generator. What copies or verifies files it yields, as a function without arguments that touches no state, and it is sent what that
returned; everything else it does itself, between two yields.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")
Decision = Generator[Callable[[], Any], Any, T]


def decided(decision: Decision[T]) -> T:
    """Make a decision here; returns when its files are done."""
    found = None
    while True:
        try:
            work = decision.send(found)
        except StopIteration as end:
            answer: T = end.value
            return answer
        found = work()


async def decided_beside(decision: Decision[T]) -> T:
    """Make a decision in this event loop, and what it does with files in a thread. Others may decide meanwhile, unless the caller keeps them from it."""
    found = None
    while True:
        try:
            work = decision.send(found)
        except StopIteration as end:
            answer: T = end.value
            return answer
        found = await asyncio.to_thread(work)
