"""Which trial the workers of an ended one take up: the coordinator's side of it. Nothing of it is worth a ledger."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

from raydistill.planning.records import TrialKey

LINGER_SECONDS = 3.0
"""How long workers stay for another trial, and keep their room: the next one of a search begins within a second."""


class Handovers:
    """Used within one event loop."""

    def __init__(self) -> None:
        self._next: dict[TrialKey, TrialKey | None] = {}
        self._left: set[TrialKey] = set()
        self._begun = Counter[TrialKey]()
        self._changed = asyncio.Condition()

    async def begin(self, key: TrialKey) -> None:
        """Forget what was said when workers of this trial ended before: it goes on with others.

        Those who still wait for what follows it leave: a paused trial may go on before they would have, and they would take what the others are given.
        """
        self._next.pop(key, None)
        self._left.discard(key)
        async with self._changed:
            self._begun[key] += 1
            self._changed.notify_all()

    async def hand_over(self, ended: TrialKey, key: TrialKey | None) -> bool:
        """Give the workers of an ended trial another one, or None: leave; returns False where they have left."""
        if ended in self._left:
            return False
        async with self._changed:
            self._next[ended] = key
            self._changed.notify_all()
        return True

    async def take_up(self, ended: TrialKey) -> TrialKey | None:
        """What the workers of an ended trial do next; None = leave."""
        begun = self._begun[ended]
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self._changed.wait_for(lambda: ended in self._next or self._begun[ended] > begun), LINGER_SECONDS
                )
        if self._begun[ended] > begun:
            return None
        if ended not in self._next:
            self._left.add(ended)
            return None
        return self._next.pop(ended)
