"""What a campaign knows about itself: records rebuilt from the events of its ledger, and nothing else.

Events are plain dictionaries with a `kind`. Applying one twice changes nothing, because whoever wrote it may have died before hearing
that it was written; one that contradicts an earlier event is refused.

    campaign_started   config_fingerprint, lineages, grades (folder names)
    trial_begun        lineage, grade, number, identity, parameters, epochs, time
    trial_resumed      lineage, grade, number, time                            taken up again after a crash, failure or loss
    trial_reported     lineage, grade, number, epoch, metrics, checkpoint, digest, outcome (running, finished, stopped), time
    trial_taught       lineage, grade, number, epoch, checkpoint, digest, time            who teaches an epoch, where teachers change
    trial_paused       lineage, grade, number, time                                  until the final teacher is there
    trial_noted        lineage, grade, number, text, time                                   it warned of something
    trial_failed       lineage, grade, number, reason, time
    trial_reused       lineage, grade, number, identity, parameters, source [lineage, grade, number], time
    checkpoint_rejected  lineage, grade, number, digest, reason, time                 damaged since it was reported
    trial_freed        lineage, grade, number, time                                 its checkpoints, and those of equal work, are removed to make room
    teacher_announced  lineage, grade, identity, checkpoint, digest, epoch, metrics, time   the best so far, for the grades below
    teacher_rejected   lineage, grade, number, checkpoint, digest, reason, time    by the trial that was to learn from it: it is damaged
    grade_promoted     lineage, grade, identity, checkpoint, digest, epoch, metrics, time
    promotion_tested   lineage, grade, metrics, time
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from raydistill.errors import LedgerError
from raydistill.planning.records import Event, Promotion, TrialKey, TrialRecord
from raydistill.planning.trial_events import TRIAL_CHANGES, metrics_of, same


@dataclass
class CampaignState:
    """Everything that happened in a campaign.

    Attributes:
        config_fingerprint: of the configuration it was begun with; empty = not begun.
        lineages: names of its ladders.
        grades: folders of its grades.
        trials: every trial that was entered.
        promotions: the result of each grade, by lineage and grade.
        announcements: who teaches below a grade until it has promoted.
        superseded: announced before it, oldest first.
        unfit: digests of announced checkpoints that were found damaged.
        tests: test metrics of what was promoted.
        events: how many there were.
    """

    config_fingerprint: str = ""
    lineages: tuple[str, ...] = ()
    grades: tuple[str, ...] = ()
    trials: dict[TrialKey, TrialRecord] = field(default_factory=dict)
    promotions: dict[tuple[str, int], Promotion] = field(default_factory=dict)
    announcements: dict[tuple[str, int], Promotion] = field(default_factory=dict)
    superseded: dict[tuple[str, int], list[Promotion]] = field(default_factory=dict)
    unfit: set[str] = field(default_factory=set)
    tests: dict[tuple[str, int], dict[str, float]] = field(default_factory=dict)
    events: int = 0

    def of(self, lineage: str, grade: int) -> list[TrialRecord]:
        """The trials of a grade, by number."""
        found = (record for key, record in self.trials.items() if key[:2] == (lineage, grade))
        return sorted(found, key=lambda record: record.number)

    def folder(self, grade: int) -> str:
        """A grade's name on disk; its number where the campaign has not said one yet."""
        return self.grades[grade] if grade < len(self.grades) else str(grade)

    def scored(self, digest: str) -> dict[str, float] | None:
        """What a promoted checkpoint, or an equal one of another lineage, scored on the test split."""
        places = (place for place in self.tests if self.promotions[place].digest == digest)
        return next((self.tests[place] for place in places), None)

    @property
    def teaching(self) -> set[str]:
        """The checkpoints that are learnt from, or will be by whoever asks next."""
        current = {self.promotions.get(place, one).checkpoint for place, one in self.announcements.items()}
        return current | {one.checkpoint for record in self.trials.values() for one in record.unreported.values()}

    @property
    def complete(self) -> bool:
        """Whether every grade of every lineage has promoted and was tested."""
        wanted = {(lineage, grade) for lineage in self.lineages for grade in range(len(self.grades))}
        return bool(wanted) and wanted <= self.promotions.keys() and wanted <= self.tests.keys()

    def apply(self, event: Event) -> None:
        """Take one more event into account.

        Raises:
            LedgerError: the event is of an unknown kind, lacks a field, or contradicts an earlier one.
        """
        kind = str(event.get("kind"))
        if kind not in KINDS:
            raise LedgerError(
                f"event {self.events + 1} is of kind {event.get('kind')!r}",
                expected=f"one of {', '.join(KINDS)}",
                consequence="part of the campaign's history would be ignored",
                remedy="use the release of raydistill that wrote this run, or a newer one",
            )
        try:
            if kind in TRIAL_CHANGES:
                TRIAL_CHANGES[kind](self.trials, event, self.events + 1)
            else:
                _CHANGES[kind](self, event)
        except (KeyError, TypeError, ValueError) as problem:
            raise LedgerError(
                f"event {self.events + 1}, {event['kind']}: {type(problem).__name__} {problem}",
                expected="the fields that this kind of event carries",
                remedy="restore the ledger from a copy, or start in a new run directory",
            ) from problem
        self.events += 1


def replay(events: Iterable[Event]) -> CampaignState:
    """Rebuild the state of a campaign from its events, oldest first.

    Raises:
        LedgerError: an event is unknown or contradicts an earlier one.
    """
    state = CampaignState()
    for event in events:
        state.apply(event)
    return state


def _start(state: CampaignState, event: Event) -> None:
    lineages, grades = tuple(event["lineages"]), tuple(event["grades"])
    if state.config_fingerprint:
        same(event, state.events + 1, "campaign", state.config_fingerprint, event["config_fingerprint"])
    state.config_fingerprint, state.lineages, state.grades = event["config_fingerprint"], lineages, grades


def _announce(state: CampaignState, event: Event) -> None:
    promotion = _promotion(event)
    key = promotion.lineage, promotion.grade
    known = state.announcements.get(key)
    if known is not None and known.checkpoint != promotion.checkpoint:
        state.superseded.setdefault(key, []).append(known)
    state.announcements[key] = promotion


def _reject_teacher(state: CampaignState, event: Event) -> None:
    checkpoint, reason = str(event["checkpoint"]), str(event["reason"])
    finder = state.trials[str(event["lineage"]), int(event["grade"]), int(event["number"])]
    if reason not in finder.notes:
        finder.notes.append(reason)
    state.unfit.add(str(event["digest"]))
    for record in state.trials.values():
        for epoch, one in record.taught.items():
            record.taught[epoch] = replace(one, lost=one.lost or one.checkpoint == checkpoint)
    # Of those before it only such as are still learnt from: the others are not kept.
    kept = state.teaching
    for former in state.superseded.values():
        former[:] = [one for one in former if one.checkpoint != checkpoint and one.checkpoint in kept]
    for key in [key for key, one in state.announcements.items() if one.checkpoint == checkpoint]:
        del state.announcements[key]
        if state.superseded.get(key):
            state.announcements[key] = state.superseded[key].pop()


def _promote(state: CampaignState, event: Event) -> None:
    promotion = _promotion(event)
    key = promotion.lineage, promotion.grade
    if key in state.promotions:
        same(event, state.events + 1, "promoted digest", state.promotions[key].digest, promotion.digest)
        return
    state.promotions[key] = promotion


def _test(state: CampaignState, event: Event) -> None:
    key = str(event["lineage"]), int(event["grade"])
    if key not in state.promotions:
        raise LedgerError(f"event {state.events + 1} tests {key}, which has not promoted")
    state.tests.setdefault(key, dict(event["metrics"]))


_CHANGES = {
    "campaign_started": _start,
    "teacher_announced": _announce,
    "teacher_rejected": _reject_teacher,
    "grade_promoted": _promote,
    "promotion_tested": _test,
}
KINDS = (*TRIAL_CHANGES, *_CHANGES)


def _promotion(event: Event) -> Promotion:
    files = event["checkpoint"], event["digest"], int(event["epoch"])
    return Promotion(str(event["lineage"]), int(event["grade"]), event["identity"], *files, metrics_of(event))
