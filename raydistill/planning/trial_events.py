"""What an event does to the trials of a campaign. See `state.py` for the kinds and their fields."""

from __future__ import annotations

import math
from collections.abc import Callable

from raydistill.errors import LedgerError
from raydistill.planning.records import ENDED, Event, Status, Taught, TrialKey, TrialRecord

Trials = dict[TrialKey, TrialRecord]


def _begin(trials: Trials, event: Event, number: int) -> None:
    key = _key(event)
    if key in trials:
        same(event, number, "identity", trials[key].identity, event["identity"])
        return
    trials[key] = TrialRecord(
        event["identity"], *key, dict(event["parameters"]), epochs=int(event["epochs"]), begun=float(event["time"])
    )


def _resume(trials: Trials, event: Event, number: int) -> None:
    record = _record(trials, event, number)
    if record.lost:
        for one in _equals(trials, record):
            one.rejected.clear()
    elif record.status not in ("failed", "paused"):
        same(event, number, "status", record.status, "running")
    record.status, record.reason, record.reused_from = "running", "", None
    record.resumed += 1
    if record.freed:
        record.freed, record.reports = False, [one for one in record.reports if one["checkpoint"]]


def _report(trials: Trials, event: Event, number: int) -> None:
    record = _record(trials, event, number)
    report = {name: event[name] for name in ("epoch", "checkpoint", "digest", "time")} | {"event": number}
    report["metrics"] = metrics_of(event)
    place = next((i for i, one in enumerate(record.reports) if one["epoch"] == report["epoch"]), None)
    if place is None:
        same(event, number, "status", record.status, "running")
        record.reports.append(report)
    elif record.reports[place]["digest"] != report["digest"]:
        # An epoch trained again, because its checkpoint was damaged and an older one was used: the newest is on disk.
        same(event, number, "status", record.status, "running")
        record.reports[place] = report
    if event["outcome"] != "running":
        _close(event, number, record, event["outcome"])


def _teach(trials: Trials, event: Event, number: int) -> None:
    record, taught = _record(trials, event, number), Taught(event["checkpoint"], event["digest"])
    epoch = int(event["epoch"])
    known = record.taught.get(epoch)
    if known is not None and known.lost and known.checkpoint == taught.checkpoint:
        return
    if known is not None and not known.lost:
        same(event, number, "teacher", known.digest, taught.digest)
    record.taught[epoch] = taught


def _pause(trials: Trials, event: Event, number: int) -> None:
    record = _record(trials, event, number)
    if record.status != "paused":
        same(event, number, "status", record.status, "running")
    record.status = "paused"


def _note(trials: Trials, event: Event, number: int) -> None:
    record, text = _record(trials, event, number), str(event["text"])
    if text not in record.notes:
        record.notes.append(text)


def _fail(trials: Trials, event: Event, number: int) -> None:
    record = _record(trials, event, number)
    _close(event, number, record, "failed")
    record.reason = str(event["reason"])


def _reuse(trials: Trials, event: Event, number: int) -> None:
    key, source = _key(event), tuple(event["source"])
    done = trials[source]
    if key in trials and trials[key].status in ENDED:
        same(event, number, "identity", trials[key].identity, event["identity"])
        return
    same(event, number, "identity", done.identity, event["identity"])
    trials[key] = TrialRecord(
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
        freed=done.freed,
    )


def _reject(trials: Trials, event: Event, number: int) -> None:
    _note(trials, {**event, "text": event["reason"]}, number)
    for one in _equals(trials, _record(trials, event, number)):
        one.rejected.add(str(event["digest"]))


def _free(trials: Trials, event: Event, number: int) -> None:
    for one in _equals(trials, _record(trials, event, number)):
        # Work that was begun anew writes checkpoints of its own.
        if one.status in ENDED:
            one.freed = True
            # The digests stay: they name what was there.
            one.reports = [{**report, "checkpoint": None} for report in one.reports]


def _key(event: Event) -> TrialKey:
    return str(event["lineage"]), int(event["grade"]), int(event["number"])


def _record(trials: Trials, event: Event, number: int) -> TrialRecord:
    key = _key(event)
    if key not in trials:
        raise LedgerError(
            f"event {number}, {event['kind']}, is about trial {key}, which never began",
            expected="an earlier trial_begun",
            remedy="restore the ledger from a copy, or start in a new run directory",
        )
    return trials[key]


def _equals(trials: Trials, record: TrialRecord) -> list[TrialRecord]:
    """The records of equal work, which share one directory and so one fate."""
    return [one for one in trials.values() if one.identity == record.identity]


def _close(event: Event, number: int, record: TrialRecord, status: Status) -> None:
    if record.status != status:
        same(event, number, "status", record.status, "running")
    record.status = status


def metrics_of(event: Event) -> dict[str, float]:
    """An event's metrics; what is no number is null in a ledger."""
    return {name: math.nan if value is None else value for name, value in event["metrics"].items()}


def same(event: Event, number: int, what: str, known: object, told: object) -> None:
    """Refuse an event that contradicts an earlier one.

    Raises:
        LedgerError: `told` is not `known`.
    """
    if known != told:
        raise LedgerError(
            f"event {number}, {event['kind']} of {[event.get(k) for k in ('lineage', 'grade', 'number')]}: "
            f"{what} is {told!r}",
            expected=f"{known!r}, as earlier events say",
            consequence="the campaign would have two histories",
            remedy="restore the ledger from a copy, or start in a new run directory",
        )


TRIAL_CHANGES: dict[str, Callable[[Trials, Event, int], None]] = {
    "trial_begun": _begin,
    "trial_resumed": _resume,
    "trial_reported": _report,
    "trial_taught": _teach,
    "trial_paused": _pause,
    "trial_noted": _note,
    "trial_failed": _fail,
    "trial_reused": _reuse,
    "checkpoint_rejected": _reject,
    "trial_freed": _free,
}
"""By kind: (trials, event, number of the event)."""
