"""Who teaches whom: the part of the ladder's decisions that is about teachers. See `ladder.py` for how decisions are made."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from raydistill.config.trial import TeacherReference
from raydistill.orchestration.chronicle import Chronicle
from raydistill.orchestration.decisions import Decision, decided
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.shelf import announcement, prune, shelf_of
from raydistill.planning.records import Taught, TrialKey, TrialRecord
from raydistill.planning.rules import Rules
from raydistill.planning.schedule import above, earlier_teachers, teacher_of, teacher_of_epoch


class Teaching(Chronicle):
    """What is decided about the teachers of one campaign.

    Args:
        place: the run.
        rules: what to decide by.

    Raises:
        LedgerError: the ledger cannot be read.
    """

    def __init__(self, place: str | Path | RunStore, rules: Rules) -> None:
        super().__init__(place)
        self.rules = rules
        self._told: dict[TrialKey, Taught] = {}

    def teacher(self, lineage: str, grade: int) -> TeacherReference | None:
        """Who teaches a grade: a checkpoint; or, where teachers change, only the grade that does."""
        if self.rules.schedule == "pipelined" and grade > 0:
            return TeacherReference(path="", digest=f"{lineage}, grade {above(grade, 'pipelined')}")
        promotion = teacher_of(self.state, lineage, grade, self.rules.schedule)
        return None if promotion is None else TeacherReference(path=promotion.checkpoint, digest=promotion.digest)

    def earlier(self, lineage: str, grade: int) -> tuple[TeacherReference, ...]:
        """What the grades above the one that teaches a grade have promoted, the nearest first."""
        found = earlier_teachers(self.state, lineage, grade, self.rules.schedule)
        return tuple(TeacherReference(path=one.checkpoint, digest=one.digest) for one in found)

    def teach(self, key: TrialKey, epoch: int) -> TeacherReference | None:
        """Who teaches an epoch (from 0) of a trial whose teacher changes; None = its final teacher is not there yet.

        The answer stands in the ledger, so that an epoch which is trained again is taught by the same teacher, unless that one was rejected since.
        """
        record = self.state.trials[key]
        if epoch not in record.taught or record.taught[epoch].lost:
            rules = self.rules
            teacher = teacher_of_epoch(self.state, record, epoch, rules.schedule, rules.settle_epochs)
            if teacher is None:
                return None
            self.tell("trial_taught", key, {"epoch": epoch, "checkpoint": teacher.checkpoint, "digest": teacher.digest})
        taught = self._told[key] = record.taught[epoch]
        return TeacherReference(path=taught.checkpoint, digest=taught.digest)

    def reject_teacher(self, key: TrialKey, reason: str) -> bool:
        """Record that the teacher a trial was told of last is not what it was; it teaches nobody any more, and the trial asks again.

        Returns:
            False where it was not announced but promoted, or given: nobody can take its place.
        """
        return decided(self.rejecting_teacher(key, reason))

    def rejecting_teacher(self, key: TrialKey, reason: str) -> Decision[bool]:
        """`reject_teacher` as a decision."""
        record = self.state.trials[key]
        # A coordinator that has told nobody yet goes by the ledger.
        told = self._told.get(key) or (record.taught[max(record.taught)] if record.taught else None)
        if told is None or told.checkpoint in {one.checkpoint for one in self.state.promotions.values()}:
            return False
        # Another of its workers may have said so before, or this one: its answer was lost.
        if not any(one.lost for one in record.taught.values() if one.checkpoint == told.checkpoint):
            facts = {"checkpoint": told.checkpoint, "digest": told.digest, "reason": reason}
            self.tell("teacher_rejected", key, facts)
        yield self._pruning(above(record.grade, self.rules.schedule))
        return True

    def _announce(self, record: TrialRecord, report: Mapping[str, Any]) -> Decision[None]:
        """Make a reported checkpoint the teacher of the grades below, if it is better than the one they have."""
        event = yield from announcement(self.store, self.rules, self.state, record, report)
        if event is not None:
            self.append(event)
            yield self._pruning(record.grade)

    def _pruning(self, grade: int) -> partial[None]:
        """Removes the teachers of a grade that nobody learns from any more."""
        return partial(prune, self.store, shelf_of(self.state.grades[grade]), frozenset(self.state.teaching))
