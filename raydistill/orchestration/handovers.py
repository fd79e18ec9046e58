"""Which trial the workers of an ended one take up: the coordinator's side of it. Nothing of it is worth a ledger."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from raydistill.orchestration.shared import Shared
from raydistill.planning.records import TrialKey

if TYPE_CHECKING:
    from raydistill.orchestration.study import Study

LINGER_SECONDS = 10.0
"""How long workers stay for another trial, and keep their room, if nobody tells them to leave. The next one of a search begins within a second, that of the next grade after a promotion."""


class Following(NamedTuple):
    """What workers do next.

    Attributes:
        key: the trial.
        study: whose it is.
    """

    key: TrialKey
    study: Study


class Handovers:
    """Used by several threads.

    Args:
        shared: the lock behind which all of it is.
    """

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self._next: dict[TrialKey, Following | None] = {}
        self._left: set[TrialKey] = set()
        self._begun = Counter[TrialKey]()

    def begin(self, key: TrialKey) -> None:
        """Forget what was said when workers of this trial ended before: it goes on with others.

        Those who still wait for what follows it leave: a paused trial may go on before they would have, and they would take what the others are given.
        """
        with self.shared.change():
            self._next.pop(key, None)
            self._left.discard(key)
            self._begun[key] += 1

    def hand_over(self, ended: TrialKey, following: Following | None) -> bool:
        """Give the workers of an ended trial another one, or None: leave; returns False where they have left."""
        with self.shared.change():
            if ended in self._left:
                return False
            self._next[ended] = following
            return True

    def take_up(self, ended: TrialKey) -> Following | None:
        """What the workers of an ended trial do next; None = leave."""
        with self.shared:
            begun = self._begun[ended]
            self.shared.until(lambda: ended in self._next or self._begun[ended] > begun, LINGER_SECONDS)
            if self._begun[ended] > begun:
                return None
            if ended not in self._next:
                self._left.add(ended)
                return None
            return self._next.pop(ended)
