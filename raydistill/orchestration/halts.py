"""Which trials are at work, and which of them were told to save and end: the coordinator's side of `halting.py`. Nothing of it is worth a ledger."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from raydistill.planning.records import TrialKey

LISTEN_SECONDS = 10.0
"""How long a trial waits for an answer before it asks again."""


class Halts:
    """Used within one event loop."""

    def __init__(self) -> None:
        self.all = False
        self.told: set[TrialKey] = set()
        self.at_work: set[TrialKey] = set()
        self.leaving: set[TrialKey] = set()
        self._changed = asyncio.Condition()

    async def listen(self, key: TrialKey, works: bool = True) -> bool:
        """True as soon as a trial is to end; False after a while. Whoever only listens is nobody that the end of a campaign waits for."""
        if works:
            self.at_work.add(key)
        await self._until(lambda: self.all or key in self.told, LISTEN_SECONDS)
        return self.all or key in self.told

    async def rest(self, key: TrialKey) -> None:
        """Hear that a trial works no more."""
        self.at_work.discard(key)
        self.told.discard(key)
        await self._tell()

    def leave(self, key: TrialKey) -> None:
        """Hear that a trial's process was told to end: the trial has saved, and its process dies without a fault."""
        self.leaving.add(key)

    def left(self, key: TrialKey) -> bool:
        """Whether a trial's process ended because it was told to; asked for once."""
        told = key in self.leaving
        self.leaving.discard(key)
        return told

    async def halt(self, key: TrialKey) -> None:
        """Tell a trial to save and end; it is started again by whoever wanted that."""
        self.told.add(key)
        await self._tell()

    async def halt_all(self, seconds: float) -> int:
        """Tell every trial, and wait until they have ended; returns how many have not."""
        self.all = True
        await self._tell()
        await self._until(lambda: not self.at_work, seconds)
        return len(self.at_work)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(condition), seconds)
