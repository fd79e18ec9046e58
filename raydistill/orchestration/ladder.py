"""The ladder's state and every decision about it, without Ray: a decision is given once it stands in the ledger.

Each method may be called again with the same arguments, because the caller may have lost the answer: the second call changes nothing and answers
the same. Those that copy or verify files are there twice: whole, and as a `Decision`, whose files may be done while others look at the state. Those after
which the checkpoints of losing trials may go have a `Decision` that frees them, too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

from raydistill.orchestration.chronicle import place_of
from raydistill.orchestration.decisions import Decision, decided
from raydistill.orchestration.freeing import Clearing
from raydistill.orchestration.library import Library, loan_events
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.study import trial_folder
from raydistill.orchestration.teaching import Teaching
from raydistill.planning.promotion import candidates, choose
from raydistill.planning.records import ENDED, ENDED_WELL, MRR, Promotion, TrialKey, TrialRecord
from raydistill.planning.rules import Rules
from raydistill.planning.schedule import due
from raydistill.planning.stopping import Halving, rebuilt

Entry = Literal["run", "reused", "wait", "closed"]


class Ladder(Teaching):
    """Every decision about one campaign.

    Args:
        place: the run.
        rules: what to decide by.
        library: what other runs have done; None = nothing is taken from them.

    Raises:
        LedgerError: the ledger cannot be read.
    """

    def __init__(self, place: str | Path | RunStore, rules: Rules, library: Library | None = None) -> None:
        super().__init__(place, rules)
        self.library = library
        self.rungs: dict[tuple[str, int], Halving] = {}
        self.clearing = Clearing(self, rules)
        for record in list(self.state.trials.values()):
            if record.status == "running" and record.taken:
                # A crash cut the taking short, and not all of its reports are there.
                head = {"identity": record.identity, "parameters": record.parameters, "time": time.time()}
                decided(self._borrow(record.key, {**place_of(record.key), **head}))

    def start(self, fingerprint: str, lineages: Sequence[str], grades: Sequence[str]) -> None:
        """Record what the campaign consists of."""
        if not self.state.config_fingerprint:
            names = {"lineages": list(lineages), "grades": list(grades)}
            self.append({"kind": "campaign_started", "config_fingerprint": fingerprint, **names, "time": time.time()})

    def starting(self, fingerprint: str, lineages: Sequence[str], grades: Sequence[str]) -> Decision[None]:
        """`start` as a decision. A kill may have come between a promotion and what it frees; and `storage.keep_trials` may be another one than before."""
        self.start(fingerprint, lineages, grades)
        yield from self.clearing.clear()

    def begin(self, key: TrialKey, identity: str, parameters: Mapping[str, Any]) -> Entry:
        """Enter a trial. `reused`: its work was done before, and is entered as done. `wait`: another trial is just doing it, or was freed and is not removed yet."""
        return decided(self.beginning(key, identity, parameters))

    def beginning(self, key: TrialKey, identity: str, parameters: Mapping[str, Any]) -> Decision[Entry]:
        """`begin` as a decision."""
        known = self.state.trials.get(key)
        if known is not None and known.identity == identity and known.status in ENDED:
            return "reused" if known.reused_from else "closed"
        head = {**place_of(key), "identity": identity, "parameters": dict(parameters), "time": time.time()}
        others = self._twins(identity, key)
        # A failure is not taken over: what made it fail may have been mended. Nor is what was freed, and could not be promoted, but where it has lost already.
        done = next(
            (one for one in others if one.status in ENDED_WELL and (not one.freed or one.key[:2] == key[:2])), None
        )
        if done is not None:
            self.append({"kind": "trial_reused", **head, "source": list(done.key)})
            return "reused"
        if known is None:
            if any(one.status == "running" for one in others):
                return "wait"
            # Those that have lost make room for it.
            yield from self.clearing.clear()
            if self.clearing.leaves(self.state.grades[key[1]], identity):
                return "wait"
            if (yield from self._borrow(key, head)):
                return "reused"
            self.append({"kind": "trial_begun", **head, "epochs": self.rules.epochs[key[1]]})
        return "run"

    def resume(self, key: TrialKey) -> Entry:
        """Record that an interrupted, paused or failed trial is taken up again. `wait`: another trial is just doing its work."""
        if any(one.status == "running" for one in self._twins(self.state.trials[key].identity, key)):
            return "wait"
        self.tell("trial_resumed", key)
        return "run"

    def report(
        self,
        key: TrialKey,
        epoch: int,
        metrics: Mapping[str, float],
        checkpoint: str | None,
        digest: str | None,
        finished: bool,
    ) -> bool:
        """Record the epochs a trial has completed, with the checkpoint and SHA-256 of its manifest; True = the trial should end here."""
        return decided(self.reporting(key, epoch, metrics, checkpoint, digest, finished))

    def reporting(
        self,
        key: TrialKey,
        epoch: int,
        metrics: Mapping[str, float],
        checkpoint: str | None,
        digest: str | None,
        finished: bool,
    ) -> Decision[bool]:
        """`report` as a decision."""
        record = self.state.trials[key]
        known = next((one for one in record.reports if one["epoch"] == epoch and one["digest"] == digest), None)
        if record.status != "running":
            return True
        if known is not None and not finished:
            # A coordinator that died between the two events has recorded the report alone.
            yield from self._announce(record, known)
            return False
        outcome = "finished" if finished else "running"
        if known is None and self.rules.early_stopping and not record.taken:
            stop = self._rungs(key).observe(key[2], epoch, metrics.get(MRR))
            outcome = "stopped" if stop and not finished else outcome
        numbers = {name: float(value) for name, value in metrics.items()}
        files = {"checkpoint": checkpoint, "digest": digest}
        content = {"epoch": epoch, "metrics": numbers, **files, "outcome": outcome, "time": time.time()}
        self.append({"kind": "trial_reported", **place_of(key), **content})
        yield from self._announce(record, content)
        return outcome != "running"

    def pause(self, key: TrialKey) -> None:
        """Record that a trial gave up its place until its final teacher is there."""
        if self.state.trials[key].status == "running":
            self.tell("trial_paused", key)

    def note(self, key: TrialKey, text: str) -> None:
        """Record what a trial warned of, once."""
        if text not in self.state.trials[key].notes:
            self.tell("trial_noted", key, {"text": text})

    def fail(self, key: TrialKey, reason: str) -> None:
        """Record that a trial is given up. A trial that already ended stays as it ended."""
        if self.state.trials[key].status == "running":
            self.tell("trial_failed", key, {"reason": reason})

    def reject(self, key: TrialKey, digest: str, reason: str) -> None:
        """Record that a reported checkpoint is not what it was, so that it is promoted no more."""
        if digest not in self.state.trials[key].rejected:
            self.tell("checkpoint_rejected", key, {"digest": digest, "reason": reason})

    def winner(self, lineage: str, grade: int) -> TrialRecord:
        """The trial to promote.

        Raises:
            PromotionError: there is none.
        """
        records = self.state.of(lineage, grade)
        best = choose(candidates(records, self.rules.sizes[grade]), self.rules.tolerance)
        return self.state.trials[lineage, grade, best.number]

    def promote(self, lineage: str, grade: int) -> None:
        """Make the best checkpoint of a grade its result.

        Raises:
            PromotionError: no trial can be promoted.
        """
        if (lineage, grade) in self.state.promotions:
            return
        record = self.winner(lineage, grade)
        best = record.best
        assert best is not None
        files = best["checkpoint"], best["digest"], best["epoch"]
        self.promote_given(Promotion(lineage, grade, record.identity, *files, best["metrics"]))

    def promoting(self, lineage: str, grade: int) -> Decision[None]:
        """`promote` as a decision."""
        self.promote(lineage, grade)
        yield from self.clearing.clear()

    def promote_given(self, promotion: Promotion) -> None:
        """Make a given checkpoint a grade's result, unless it has one."""
        if (promotion.lineage, promotion.grade) not in self.state.promotions:
            self.append({"kind": "grade_promoted", **asdict(promotion), "time": time.time()})

    def record_test(self, lineage: str, grade: int, metrics: Mapping[str, float]) -> None:
        """Record what a promoted checkpoint scores on the test split."""
        if (lineage, grade) not in self.state.tests:
            head = {"kind": "promotion_tested", "lineage": lineage, "grade": grade}
            self.append({**head, "metrics": dict(metrics), "time": time.time()})

    def recording_test(self, lineage: str, grade: int, metrics: Mapping[str, float]) -> Decision[None]:
        """`record_test` as a decision: by then whoever had last words about a trial has said them."""
        self.record_test(lineage, grade, metrics)
        yield from self.clearing.clear()

    def study(self, lineage: str, grade: int) -> list[TrialRecord]:
        """The trials of a grade, by number."""
        return self.state.of(lineage, grade)

    def due(self, lineage: str, grade: int) -> list[TrialRecord]:
        """The paused trials of a grade that may go on, by number."""
        return due(self.state, lineage, grade, self.rules.schedule)

    def record(self, key: TrialKey) -> TrialRecord:
        """One trial."""
        return self.state.trials[key]

    def _borrow(self, key: TrialKey, head: Mapping[str, Any]) -> Decision[bool]:
        """Take a trial over from another run, if one has done it."""
        if self.library is None:
            return False
        folder = trial_folder(self.state.grades[key[1]], head["identity"])
        loan = yield partial(self.library.borrow, head["identity"], folder)
        events = loan_events(head, loan)
        for event in events:
            self.append(event)
        return bool(events)

    def _twins(self, identity: str, key: TrialKey) -> list[TrialRecord]:
        """The other trials that stand for the same work."""
        return [one for one in self.state.trials.values() if one.identity == identity and one.key != key]

    def _rungs(self, key: TrialKey) -> Halving:
        place = key[:2]
        if place not in self.rungs:
            fresh = Halving(self.rules.grace, self.rules.factor, self.rules.epochs[key[1]])
            self.rungs[place] = rebuilt(fresh, self.state, *place)
        return self.rungs[place]
