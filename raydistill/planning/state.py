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
    teacher_announced  lineage, grade, identity, checkpoint, digest, epoch, metrics, time   the best so far, for the grades below
    grade_promoted     lineage, grade, identity, checkpoint, digest, epoch, metrics, time
    promotion_tested   lineage, grade, metrics, time
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from raydistill.errors import LedgerError
from raydistill.planning.records import ENDED, Event, Promotion, Status, Taught, TrialKey, TrialRecord


@dataclass
class CampaignState:
    """Everything that happened in a campaign."""

    config_fingerprint: str = ""
    lineages: tuple[str, ...] = ()
    grades: tuple[str, ...] = ()
    trials: dict[TrialKey, TrialRecord] = field(default_factory=dict)
    promotions: dict[tuple[str, int], Promotion] = field(default_factory=dict)
    announcements: dict[tuple[str, int], Promotion] = field(default_factory=dict)
    tests: dict[tuple[str, int], dict[str, float]] = field(default_factory=dict)
    events: int = 0

    def of(self, lineage: str, grade: int) -> list[TrialRecord]:
        """The trials of a grade, by number."""
        found = (record for key, record in self.trials.items() if key[:2] == (lineage, grade))
        return sorted(found, key=lambda record: record.number)

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
        change = _CHANGES.get(str(event.get("kind")))
        if change is None:
            raise LedgerError(
                f"event {self.events + 1} is of kind {event.get('kind')!r}",
                expected=f"one of {', '.join(_CHANGES)}",
                consequence="part of the campaign's history would be ignored",
                remedy="use the release of raydistill that wrote this run, or a newer one",
            )
        try:
            change(self, event)
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
        _same(state, event, "campaign", state.config_fingerprint, event["config_fingerprint"])
    state.config_fingerprint, state.lineages, state.grades = event["config_fingerprint"], lineages, grades


def _begin(state: CampaignState, event: Event) -> None:
    key = _key(event)
    if key in state.trials:
        _same(state, event, "identity", state.trials[key].identity, event["identity"])
        return
    state.trials[key] = TrialRecord(
        event["identity"], *key, dict(event["parameters"]), epochs=int(event["epochs"]), begun=float(event["time"])
    )


def _resume(state: CampaignState, event: Event) -> None:
    record = _record(state, event)
    if record.lost:
        for one in _equals(state, record):
            one.rejected.clear()
    elif record.status not in ("failed", "paused"):
        _same(state, event, "status", record.status, "running")
    record.status, record.reason, record.reused_from = "running", "", None
    record.resumed += 1


def _report(state: CampaignState, event: Event) -> None:
    record = _record(state, event)
    report = {name: event[name] for name in ("epoch", "checkpoint", "digest", "time")} | {"event": state.events + 1}
    report["metrics"] = {name: math.nan if value is None else value for name, value in event["metrics"].items()}
    place = next((i for i, one in enumerate(record.reports) if one["epoch"] == report["epoch"]), None)
    if place is None:
        _same(state, event, "status", record.status, "running")
        record.reports.append(report)
    elif record.reports[place]["digest"] != report["digest"]:
        # An epoch trained again, because its checkpoint was damaged and an older one was used: the newest is on disk.
        _same(state, event, "status", record.status, "running")
        record.reports[place] = report
    if event["outcome"] != "running":
        _close(state, event, record, event["outcome"])


def _teach(state: CampaignState, event: Event) -> None:
    record, taught = _record(state, event), Taught(event["checkpoint"], event["digest"])
    epoch = int(event["epoch"])
    if epoch in record.taught:
        _same(state, event, "teacher", record.taught[epoch].digest, taught.digest)
    record.taught[epoch] = taught


def _pause(state: CampaignState, event: Event) -> None:
    record = _record(state, event)
    if record.status != "paused":
        _same(state, event, "status", record.status, "running")
    record.status = "paused"


def _note(state: CampaignState, event: Event) -> None:
    record, text = _record(state, event), str(event["text"])
    if text not in record.notes:
        record.notes.append(text)


def _fail(state: CampaignState, event: Event) -> None:
    record = _record(state, event)
    _close(state, event, record, "failed")
    record.reason = str(event["reason"])


def _reuse(state: CampaignState, event: Event) -> None:
    key, source = _key(event), tuple(event["source"])
    done = state.trials[source]
    if key in state.trials and state.trials[key].status in ENDED:
        _same(state, event, "identity", state.trials[key].identity, event["identity"])
        return
    _same(state, event, "identity", done.identity, event["identity"])
    state.trials[key] = TrialRecord(
        done.identity,
        *key,
        dict(event["parameters"]),
        status=done.status,
        epochs=done.epochs,
        reports=list(done.reports),
        reason=done.reason,
        begun=float(event["time"]),
        reused_from=done.key,
        taught=dict(done.taught),
        rejected=set(done.rejected),
    )


def _reject(state: CampaignState, event: Event) -> None:
    _note(state, {**event, "text": event["reason"]})
    for one in _equals(state, _record(state, event)):
        one.rejected.add(str(event["digest"]))


def _announce(state: CampaignState, event: Event) -> None:
    promotion = _promotion(event)
    state.announcements[promotion.lineage, promotion.grade] = promotion


def _promote(state: CampaignState, event: Event) -> None:
    promotion = _promotion(event)
    key = promotion.lineage, promotion.grade
    if key in state.promotions:
        _same(state, event, "promoted digest", state.promotions[key].digest, promotion.digest)
        return
    state.promotions[key] = promotion


def _test(state: CampaignState, event: Event) -> None:
    key = str(event["lineage"]), int(event["grade"])
    if key not in state.promotions:
        raise LedgerError(f"event {state.events + 1} tests {key}, which has not promoted")
    state.tests.setdefault(key, dict(event["metrics"]))


_CHANGES = {
    "campaign_started": _start,
    "trial_begun": _begin,
    "trial_resumed": _resume,
    "trial_reported": _report,
    "trial_taught": _teach,
    "trial_paused": _pause,
    "trial_noted": _note,
    "trial_failed": _fail,
    "trial_reused": _reuse,
    "checkpoint_rejected": _reject,
    "teacher_announced": _announce,
    "grade_promoted": _promote,
    "promotion_tested": _test,
}


def _key(event: Event) -> TrialKey:
    return str(event["lineage"]), int(event["grade"]), int(event["number"])


def _promotion(event: Event) -> Promotion:
    files = event["checkpoint"], event["digest"], int(event["epoch"])
    return Promotion(str(event["lineage"]), int(event["grade"]), event["identity"], *files, dict(event["metrics"]))


def _record(state: CampaignState, event: Event) -> TrialRecord:
    key = _key(event)
    if key not in state.trials:
        raise LedgerError(
            f"event {state.events + 1}, {event['kind']}, is about trial {key}, which never began",
            expected="an earlier trial_begun",
            remedy="restore the ledger from a copy, or start in a new run directory",
        )
    return state.trials[key]


def _equals(state: CampaignState, record: TrialRecord) -> list[TrialRecord]:
    """The records of equal work, which share one directory and so one fate."""
    return [one for one in state.trials.values() if one.identity == record.identity]


def _close(state: CampaignState, event: Event, record: TrialRecord, status: Status) -> None:
    if record.status != status:
        _same(state, event, "status", record.status, "running")
    record.status = status


def _same(state: CampaignState, event: Event, what: str, known: object, told: object) -> None:
    if known != told:
        raise LedgerError(
            f"event {state.events + 1}, {event['kind']} of {[event.get(k) for k in ('lineage', 'grade', 'number')]}: "
            f"{what} is {told!r}",
            expected=f"{known!r}, as earlier events say",
            consequence="the campaign would have two histories",
            remedy="restore the ledger from a copy, or start in a new run directory",
        )
