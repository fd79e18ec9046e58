"""Running studies one after another, each to its promotion, in an actor: those of several lineages run in several, because two runs of Tune cannot share a process."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from raydistill.errors import CheckpointError, TrialError
from raydistill.orchestration.asking import ask
from raydistill.orchestration.logs import SEARCH_LOG, logged
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.searcher import Allowance, Proposer, StudySearcher
from raydistill.orchestration.study import Study
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.records import TrialRecord

if TYPE_CHECKING:
    from raydistill.orchestration.tuning import Tuning

logger = logging.getLogger(__name__)
ROUNDS = 2
"""How often a grade is searched: once, and once more if every checkpoint it could promote was lost."""
DAMAGED = ".damaged-"


class StudyRunner:
    """A process that runs studies, one after another."""

    def __init__(self) -> None:
        # Ray Tune takes more than a second to import. That is well spent before there is a study, and lost in the driver, which only names this class.
        from raydistill.orchestration.tuning import Tuning

        self._begin = Tuning
        self.allowance = Allowance(1)
        self._study: Study | None = None
        self._searcher: StudySearcher | None = None
        self._tuning: Tuning | None = None
        self._early: dict[tuple[str, int], int] = {}
        self._turning = threading.Lock()

    def allow(self, place: tuple[str, int], trials: int) -> None:
        """Let more trials of a study run at once; one that begins in this moment may hear of it before it has begun."""
        with self._turning:
            if self._study is not None and place == self._study.place:
                self.allowance.trials = trials
            else:
                self._early[place] = trials

    def study(self, number: int) -> Study:
        """The study that runs, for the process that one of its trials is given to, which may have been another study's."""
        with self._turning:
            if self._searcher is not None:
                self._searcher.is_seen(number)
            # Tune may have found another process for the trial since, and nobody waits for this one.
            assert self._study is not None, "the study is over"
            return self._study

    def let_go(self) -> None:
        """Hear that no study follows for the moment: the processes of its trials are not needed, and others need their room."""
        tuning = self._tuning
        if tuning is not None:
            tuning.let_go()

    def end(self) -> None:
        """End the processes of trials, and return when they have ended, and their room is free."""
        if self._tuning is not None:
            self._tuning.end()
            self._tuning = None

    def _turn_to(self, study: Study) -> None:
        with self._turning:
            self._study = study
            self.allowance = Allowance(max(study.concurrency, self._early.pop(study.place, 0)))

    def run(self, study: Study, coordinator: Any, workshop: Workshop) -> None:
        """Run the trials that are left of a study, then promote; or leave it where trials wait for their final teacher.

        Raises:
            PromotionError: no trial can be promoted.
            TrialError: the search ended before its trials.
            CheckpointError: every checkpoint that could be promoted is damaged, and was again after it had been trained anew.
        """
        # On the driver's machine, but the cluster there may have been started with another installation, or see other folders.
        study.premises.require()
        self._turn_to(study)
        log = f"grades/{study.plan.folder}/{SEARCH_LOG}"
        try:
            with logged(study.root / log):
                self._run(study, coordinator, workshop)
        finally:
            study.store.send(log)
            with self._turning:
                self._study = self._searcher = None

    def _run(self, study: Study, coordinator: Any, workshop: Workshop) -> None:
        problem: CheckpointError | None = None
        for _ in range(ROUNDS):
            proposer = Proposer(study, coordinator)
            first = proposer.next()
            if first is not None:
                searcher = StudySearcher(proposer, first, self.allowance)
                self._search(study, searcher, coordinator, workshop, at_once=first != "wait")
            records: list[TrialRecord] = ask(coordinator.study.remote(*study.place))
            _require_ended(records)
            if any(one.status == "paused" for one in records):
                # They gave up their room; the study is taken up again when the final teacher is there.
                return
            problem = self._promote(study, coordinator, workshop)
            if problem is None:
                return
        assert problem is not None
        raise problem

    def _search(
        self, study: Study, searcher: StudySearcher, coordinator: Any, workshop: Workshop, *, at_once: bool
    ) -> None:
        # While another study does the same work, nothing is to be had here, and a process that stays has room of somebody's.
        with self._turning:
            self._searcher = searcher
        if not (at_once and self._tuning is not None and self._tuning.take(study, searcher)):
            self.end()
            runner = ray.get_runtime_context().current_actor
            self._tuning = self._begin(study, searcher, runner, coordinator, workshop)
        assert self._tuning is not None
        self._tuning.wait()

    def _promote(self, study: Study, coordinator: Any, workshop: Workshop) -> CheckpointError | None:
        """Promote the best sound checkpoint; or say what is wrong with the last one, when none is left."""
        problem = None
        while True:
            records: list[TrialRecord] = ask(coordinator.study.remote(*study.place))
            if problem is not None and not any(one.best for one in records if one.status != "failed"):
                return problem
            winner: TrialRecord = ask(coordinator.winner.remote(*study.place))
            problem = _damage(winner, workshop)
            if problem is None:
                ask(coordinator.promote.remote(*study.place))
                return None
            logger.warning("%s; the next best takes its place", problem.received)
            ask(coordinator.reject.remote(winner.key, winner.best_digest, problem.received))
            _set_aside(winner, study.store)


def _require_ended(records: Iterable[TrialRecord]) -> None:
    """Refuse to choose among trials of which some were left where they stood: the best could be one of them."""
    left = [one for one in records if one.status == "running"]
    if left:
        raise TrialError(
            f"the search ended while {len(left)} of its trials had not: {', '.join(one.identity for one in left)}",
            expected="trials that finish, stop, wait or fail",
            consequence="a grade would be promoted without them",
            remedy=f"see {SEARCH_LOG} of the grade, then run again with --resume",
        )


def _set_aside(winner: TrialRecord, store: RunStore) -> None:
    """Rename what was rejected: it stays to be looked at, and a trial that is taken up again does not stumble over it."""
    place, mark = str(winner.best_checkpoint), uuid.uuid4().hex[:8]
    if store.remote is None:
        path = Path(place)
        if path.exists():
            path.rename(path.with_name(f"{DAMAGED}{path.name}-{mark}"))
        return
    folder, _, name = str(store.relative(place)).rpartition("/")
    store.inside(place).copy(store.remote.below(f"{folder}/{DAMAGED}{name}-{mark}"))
    store.inside(place).remove()


def _damage(winner: TrialRecord, workshop: Workshop) -> CheckpointError | None:
    """What is wrong with the checkpoint to promote, or None."""
    path, expected = winner.best_checkpoint, winner.best_digest
    assert path is not None
    try:
        digest = workshop.verify_checkpoint(path)
    except CheckpointError as problem:
        return problem
    if digest != expected:
        return CheckpointError(
            f"{path}: SHA-256 of its manifest is {digest}",
            expected=f"{expected}, as it was reported",
            consequence="a checkpoint that nobody validated would teach the grades below",
            remedy="restore it from a copy, or start in a new run directory",
        )
    return None
