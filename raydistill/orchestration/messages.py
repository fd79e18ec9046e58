"""What processes of trials tell each other through the coordinator: when to end, and what to do next. Nothing of it is worth a ledger."""

from __future__ import annotations

import threading

from raydistill.orchestration.answering import halting, listening, staying
from raydistill.orchestration.halts import Halts
from raydistill.orchestration.handovers import Following, Handovers
from raydistill.orchestration.shared import Shared
from raydistill.planning.records import TrialKey


class Messages:
    """`Halts` and `Handovers` behind messages."""

    def __init__(self) -> None:
        lock = threading.RLock()
        self.shared = Shared(lock)
        # One lock, so that what concerns both is one change; and whoever waits for the news of one is not woken by the other's.
        self.handovers = Handovers(Shared(lock))
        # A lock of its own: the ladder writes its ledger behind the other one, for minutes where a storage does not answer, and trials have to hear of the end in seconds.
        self.halts = Halts(Shared(threading.RLock()))

    @listening
    def listen(self, key: TrialKey, works: bool = True) -> bool:
        """See `Halts.listen`."""
        return self.halts.listen(key, works)

    @halting
    def rest(self, key: TrialKey) -> None:
        """See `Halts.rest`."""
        self.halts.rest(key)

    def enter(self, key: TrialKey) -> None:
        """Hear that workers turn to a trial: what those before them were told is over with them."""
        with self.shared:
            self.handovers.begin(key)
            self.halts.rest(key)

    @halting
    def leave(self, key: TrialKey) -> None:
        """See `Halts.leave`."""
        self.halts.leave(key)

    @halting
    def left(self, key: TrialKey) -> bool:
        """See `Halts.left`."""
        return self.halts.left(key)

    @halting
    def halt(self, key: TrialKey) -> None:
        """See `Halts.halt`."""
        self.halts.halt(key)

    @halting
    def halt_all(self, seconds: float) -> int:
        """See `Halts.halt_all`."""
        return self.halts.halt_all(seconds)

    def hand_over(self, ended: TrialKey, following: Following | None) -> bool:
        """See `Handovers.hand_over`."""
        with self.shared:
            if not self.handovers.hand_over(ended, following):
                return False
            if following is not None and following.key != ended:
                self.enter(following.key)
            return True

    @staying
    def take_up(self, ended: TrialKey) -> Following | None:
        """See `Handovers.take_up`."""
        return self.handovers.take_up(ended)
