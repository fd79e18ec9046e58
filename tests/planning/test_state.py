from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydistill.errors import LedgerError
from raydistill.planning.state import replay

Event = dict[str, Any]
START: Event = {"kind": "campaign_started", "config_fingerprint": "f", "lineages": ["main", "b"], "grades": ["0", "1"]}


def begun(number: int = 0, identity: str = "i", lineage: str = "main", grade: int = 0) -> Event:
    place = {"lineage": lineage, "grade": grade, "number": number}
    return {"kind": "trial_begun", **place, "identity": identity, "parameters": {"a": 1}, "epochs": 3, "time": 1.0}


def reported(
    epoch: int, mrr: float | None, outcome: str = "running", number: int = 0, digest: str | None = None
) -> Event:
    place = {"lineage": "main", "grade": 0, "number": number}
    files = {"checkpoint": f"c{epoch}", "digest": digest or f"d{epoch}"}
    metrics = {"valid/both/mrr": mrr, "loss": 1.0}
    return {
        "kind": "trial_reported",
        **place,
        "epoch": epoch,
        "metrics": metrics,
        **files,
        "outcome": outcome,
        "time": 2.0,
    }


def failed(number: int = 0, reason: str = "nan") -> Event:
    return {"kind": "trial_failed", "lineage": "main", "grade": 0, "number": number, "reason": reason, "time": 3.0}


def promoted(digest: str = "d2") -> Event:
    files = {"checkpoint": "c2", "digest": digest, "epoch": 2, "metrics": {"valid/both/mrr": 0.4}}
    return {"kind": "grade_promoted", "lineage": "main", "grade": 0, "identity": "i", **files, "time": 4.0}


WHOLE = [
    START, begun(), reported(1, 0.3), begun(1, "j"), failed(1), reported(2, 0.4), reported(3, 0.4, "finished"),
    promoted(), {"kind": "promotion_tested", "lineage": "main", "grade": 0, "metrics": {"test/both/mrr": 0.2}},
]  # fmt: skip


def test_history_becomes_records() -> None:
    """Reports and decisions would read a state that is not what happened."""
    state = replay(WHOLE)
    first, second = state.of("main", 0)
    assert (first.status, first.best_mrr, first.best_epoch, first.best_checkpoint, first.best_digest) == (
        "finished", 0.4, 2, "c2", "d2",
    )  # fmt: skip
    assert first.last is not None
    assert (first.last["epoch"], first.epochs, second.status, second.reason) == (3, 3, "failed", "nan")
    assert state.promotions["main", 0].digest == "d2"
    assert state.tests["main", 0] == {"test/both/mrr": 0.2}
    assert (state.events, state.complete) == (len(WHOLE), False)


def test_every_event_may_come_twice() -> None:
    """A writer that died before it heard that an event was written would write it again, and a report would count twice."""
    twice = replay([event for event in WHOLE for _ in range(2)])
    once = replay(WHOLE)
    assert (twice.promotions, twice.tests) == (once.promotions, once.tests)
    for key, record in once.trials.items():
        assert twice.trials[key].status == record.status
        assert [one["digest"] for one in twice.trials[key].reports] == [one["digest"] for one in record.reports]


@given(st.lists(st.sampled_from(range(len(WHOLE))), max_size=12))
def test_repetitions_of_the_past_change_nothing(again: list[int]) -> None:
    """A retried message of an earlier epoch would move a trial back."""
    state = replay([*WHOLE, *(WHOLE[index] for index in again)])
    assert [one.status for one in state.of("main", 0)] == ["finished", "failed"]
    assert [len(one.reports) for one in state.of("main", 0)] == [3, 0]


@pytest.mark.parametrize(
    ("events", "match"),
    [
        ([{"kind": "trial_begum"}], "kind 'trial_begum'"),
        ([{"kind": "campaign_started"}], "KeyError"),
        ([reported(1, 0.1)], "never began"),
        ([begun(), begun(identity="other")], "identity is 'other'"),
        ([begun(), failed(), reported(1, 0.1)], "status is 'running'"),
        ([begun(), reported(1, 0.1, "finished"), reported(2, 0.1)], "status is 'running'"),
        ([begun(), reported(1, 0.1, "finished"), failed()], "status is 'running'"),
        ([promoted(), promoted("other")], "promoted digest is 'other'"),
        ([START, {**START, "config_fingerprint": "g"}], "campaign is 'g'"),
        ([{"kind": "promotion_tested", "lineage": "main", "grade": 0, "metrics": {}}], "has not promoted"),
        ([{**begun(), "number": "x"}], "ValueError"),
    ],
)
def test_contradictions_are_refused(events: list[Event], match: str) -> None:
    """A campaign would go on from two histories at once."""
    with pytest.raises(LedgerError, match=match):
        replay(events)


def test_epoch_trained_again_replaces_its_report() -> None:
    """When a damaged checkpoint made a trial fall back, the ledger would name the digest of a checkpoint that is gone."""
    state = replay(
        [begun(), reported(1, 0.1), reported(2, 0.9), reported(2, 0.8, digest="new"), reported(3, 0.1, "finished")]
    )
    (record,) = state.of("main", 0)
    assert (record.best_digest, record.best_mrr, len(record.reports)) == ("new", 0.8, 3)


def test_unvalidated_epochs_are_never_best() -> None:
    """A trial would be promoted by an epoch whose quality nobody knows."""
    state = replay([begun(), reported(1, None), reported(2, 0.1), reported(3, math.nan, "finished")])
    assert state.of("main", 0)[0].best_epoch == 2
    assert replay([begun(), reported(1, None)]).of("main", 0)[0].best is None


def test_reused_work_is_complete_and_marked() -> None:
    """A teacher shared by two ladders would be missing in the second, or counted as trained twice."""
    again = {"kind": "trial_reused", "lineage": "b", "grade": 0, "number": 0, "identity": "i", "parameters": {},
             "source": ["main", 0, 0], "time": 5.0}  # fmt: skip
    state = replay([*WHOLE, json.loads(json.dumps(again)), again])
    (record,) = state.of("b", 0)
    assert (record.status, record.best_digest, record.reused_from) == ("finished", "d2", ("main", 0, 0))
    with pytest.raises(LedgerError, match="identity is 'k'"):
        replay([*WHOLE, {**again, "identity": "k"}])


def test_failed_trial_may_be_taken_up_again() -> None:
    """After the disk was full, a resumed run could never mend the grade."""
    resumed = {"kind": "trial_resumed", "lineage": "main", "grade": 0, "number": 0, "time": 4.0}
    state = replay([begun(), reported(1, 0.1), failed(), resumed, reported(2, 0.2, "finished")])
    (record,) = state.of("main", 0)
    assert (record.status, record.reason, record.resumed, len(record.reports)) == ("finished", "", 1, 2)
    with pytest.raises(LedgerError):
        replay([begun(), reported(1, 0.1, "finished"), resumed])
