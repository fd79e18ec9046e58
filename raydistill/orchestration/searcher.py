"""Which trial a study runs next: interrupted ones first, then those whose final teacher has come, then new points, until its limit or the end of its space."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from raydistill.orchestration.asking import ask
from raydistill.orchestration.study import Study
from raydistill.planning.records import TrialRecord
from raydistill.planning.search import Observation, propose

FINISHED = "FINISHED"
"""No trial is left, in the word of Ray Tune's `Searcher`, which takes a second to import, in the driver for nothing."""
DIED = "its process died more often than resources.max_failures allows"


class Proposer:
    """The points of one study, in order. Only one proposer serves a study at a time, so numbers are given once.

    Args:
        study: the grade.
        coordinator: handle of the coordinator.
    """

    def __init__(self, study: Study, coordinator: Any) -> None:
        self.study = study
        self.coordinator = coordinator
        self.interrupted = self._to_resume(ask(coordinator.study.remote(*study.place)))

    def next(self) -> int | Literal["wait"] | None:
        """Number of the next trial to run; `wait` while another study does the same work; None when there is none left."""
        if self.interrupted:
            answer = self._resume(self.interrupted[0])
            if answer != "wait":
                self.interrupted.pop(0)
            return answer
        while True:
            records: list[TrialRecord] = ask(self.coordinator.study.remote(*self.study.place))
            waiting = any(one.status == "paused" for one in records)
            if waiting and (due := ask(self.coordinator.due.remote(*self.study.place))):
                return self._resume(due[0])
            parameters = self._propose(records)
            if parameters is None:
                return None
            number = len(records)
            identity = self.study.resolve(parameters).identity
            entry = ask(self.coordinator.begin.remote(self.study.key(number), identity, parameters))
            if entry == "run":
                return number
            if entry == "wait":
                return "wait"

    def take_up(self, number: int) -> None:
        """Have a trial whose process ended before it did run again, before anything new."""
        self.interrupted.append(ask(self.coordinator.record.remote(self.study.key(number))))

    def _resume(self, record: TrialRecord) -> int | Literal["wait"]:
        return "wait" if ask(self.coordinator.resume.remote(record.key)) == "wait" else record.number

    def _propose(self, records: list[TrialRecord]) -> dict[str, Any] | None:
        if len(records) >= self.study.limit:
            return None
        search = self.study.config.search
        settle = self.study.config.schedule.settle_epochs
        history = [Observation(one.number, one.parameters, _value(one, settle)) for one in records]
        return propose(
            self.study.space,
            history,
            len(records),
            algorithm=search.algorithm,
            seed=self.study.lineage.seed,
            grade=self.study.plan.index,
            startup_trials=search.startup_trials,
            work=lambda point: self.study.resolve(point).identity,
        )

    def _to_resume(self, records: list[TrialRecord]) -> list[TrialRecord]:
        running = [one for one in records if one.status == "running"]
        if running or any(one.best or one.status == "paused" for one in records if one.status != "failed"):
            return running
        # Nothing here could be promoted. What was lost is trained again; whatever made every trial fail may have been mended.
        lost = [one for one in records if one.lost]
        return lost or [one for one in records if one.status == "failed"]


@dataclass
class Allowance:
    """How many trials of a study may run at once; it changes with the cluster."""

    trials: int


class StudySearcher:
    """A proposer that answers what Ray Tune asks, through the `Relay` that follows study by study.

    Args:
        proposer: where the points come from.
        first: a trial it has given out already.
        allowance: how many trials may run at once. It is counted here, because Tune's own limit stands as it was at the start.

    Attributes:
        inherits: whether its first trial is given the process of another study's.
    """

    def __init__(self, proposer: Proposer, first: int | Literal["wait"], allowance: Allowance) -> None:
        self.proposer, self.allowance = proposer, allowance
        self.first: int | None = None if first == "wait" else first
        self.numbers: dict[str, int] = {}
        self.deaths = Counter[int]()
        self.inherits, self._heir = False, ""

    def suggest(self, trial_id: str) -> Any:
        """The next trial, as {"number": n}. Everything else about it the trial asks of the coordinator."""
        if len(self.numbers) >= self.allowance.trials:
            return None
        number = self.first if self.first is not None else self.proposer.next()
        self.first = None
        if number is None and not self.numbers:
            return FINISHED
        if number is None or number == "wait":
            # One of those that run may end with its process, and is then to run again.
            return None
        self.numbers[trial_id] = number
        if self.inherits:
            self.inherits, self._heir = False, trial_id
        return {"number": number}

    def is_seen(self, number: int) -> None:
        """Hear from a trial's process, which lived when it was given the trial."""
        if self.numbers.get(self._heir) == number:
            self._heir = ""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial whose process died runs again, unless that has happened too often: then nobody else is left to say that it failed.

        It is counted here, because Tune counts a process that was told to end and has saved, and gives up one that dies while it starts.
        """
        number = self.numbers.pop(trial_id, None)
        if not error or number is None:
            return
        study, coordinator = self.proposer.study, self.proposer.coordinator
        key = study.key(number)
        # What died may have done so before the trial was given to it, and nobody looked.
        self.deaths[number] += not (ask(coordinator.left.remote(key)) or trial_id == self._heir)
        if self.deaths[number] > study.config.resources.max_failures:
            ask(coordinator.fail.remote(key, DIED))
        elif ask(coordinator.goes_on.remote(key)):
            self.proposer.take_up(number)


def _value(record: TrialRecord, settle_epochs: int) -> float | None:
    """What is known of a point. Where teachers change, a trial has shown it before its last epochs, which may have to wait for their teacher."""
    if record.status in ("finished", "stopped", "paused"):
        return record.best_mrr
    # One that was taken up again is not forgotten until it has finished.
    done = record.last["epoch"] if record.last and record.taught else 0
    waited = record.status == "running" and done >= max(1, record.epochs - settle_epochs)
    return record.best_mrr if waited else None
