"""Which trials are at work, and which of them were told to save and end: the coordinator's side of `halting.py`. Nothing of it is worth a ledger."""

from __future__ import annotations

from collections import Counter

from raydistill.orchestration.shared import Shared
from raydistill.planning.records import TrialKey

LISTEN_SECONDS = 10.0
"""How long a trial waits for an answer before it asks again."""


class Halts:
    """Used by several threads.

    Args:
        shared: the lock behind which all of it is.
    """

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.all = False
        self.told: set[TrialKey] = set()
        self.at_work: set[TrialKey] = set()
        self.leaving: set[TrialKey] = set()
        self._rests = Counter[TrialKey]()

    def listen(self, key: TrialKey, works: bool = True) -> bool:
        """True as soon as a trial is to end; False when it rests, or after a while. Whoever only listens is nobody that the end of a campaign waits for."""
        with self.shared:
            if works:
                self.at_work.add(key)
            rests = self._rests[key]
            # Nobody works at it any more: the thread is free for others.
            self.shared.until(lambda: self._ends(key) or self._rests[key] > rests, LISTEN_SECONDS)
            return self._ends(key)

    def rest(self, key: TrialKey) -> None:
        """Hear that a trial works no more."""
        with self.shared.change():
            self.at_work.discard(key)
            self.told.discard(key)
            self._rests[key] += 1

    def leave(self, key: TrialKey) -> None:
        """Hear that a trial's process was told to end: the trial has saved, and its process dies without a fault."""
        with self.shared:
            self.leaving.add(key)

    def left(self, key: TrialKey) -> bool:
        """Whether a trial's process ended because it was told to; asked for once."""
        with self.shared:
            told = key in self.leaving
            self.leaving.discard(key)
            return told

    def halt(self, key: TrialKey) -> None:
        """Tell a trial to save and end; it is started again by whoever wanted that."""
        with self.shared.change():
            self.told.add(key)

    def halt_all(self, seconds: float) -> int:
        """Tell every trial, and wait until they have ended; returns how many have not."""
        with self.shared.change():
            self.all = True
        with self.shared:
            self.shared.until(lambda: not self.at_work, seconds)
            return len(self.at_work)

    def _ends(self, key: TrialKey) -> bool:
        return self.all or key in self.told
