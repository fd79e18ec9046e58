"""The coordinator's logic, without Ray."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from raydistill.errors import CheckpointError, LedgerError, PromotionError, StorageError
from raydistill.orchestration import durable
from raydistill.orchestration.ladder import Ladder
from raydistill.orchestration.rundir import read_state
from raydistill.planning.records import Promotion
from raydistill.planning.rules import Rules
from raydistill.planning.schedule import ScheduleName

A, B = ("main", 0, 0), ("main", 1, 0)


def rules(schedule: ScheduleName = "sequential", asha: bool = False) -> Rules:
    return Rules(schedule, 0.0, asha, 1, 2, epochs=(3, 3, 3), sizes=(12, 6, 3))


def ladder(root: Path, asha: bool = False) -> Ladder:
    made = Ladder(root, rules(asha=asha))
    made.start("f", ["main", "b"], ["0-teacher", "1-layers6", "2-layers3"])
    return made


def epoch(one: Ladder, key: tuple[str, int, int], number: int, mrr: float, finished: bool = False) -> bool:
    path = str(one.store.root / "grades" / f"{key[1]}" / f"{key[2]}" / f"{number}")
    return one.report(key, number, {"valid/both/mrr": mrr}, path, f"d{key}{number}", finished)


def whole(one: Ladder, key: tuple[str, int, int], identity: str, *scores: float) -> None:
    assert one.begin(key, identity, {}) == "run"
    for number, mrr in enumerate(scores, start=1):
        assert epoch(one, key, number, mrr, finished=number == len(scores)) == (number == len(scores))


def test_every_message_may_come_twice(tmp_path: Path) -> None:
    """A message is sent again when its sender lost the answer; an epoch would count twice, or a trial be entered twice."""
    one = ladder(tmp_path)
    for _ in range(2):
        one.start("f", ["main", "b"], ["0-teacher", "1-layers6", "2-layers3"])
        assert one.begin(A, "i", {"x": 1}) == "run"
        assert not epoch(one, A, 1, 0.5)
    for _ in range(2):
        assert epoch(one, A, 2, 0.4, finished=True)
        one.fail(A, "too late")
        one.promote("main", 0)
        one.record_test("main", 0, {"test/both/mrr": 0.1})
    assert [event["kind"] for event in one.events] == [
        "campaign_started", "trial_begun", "trial_reported", "trial_reported", "grade_promoted", "promotion_tested",
    ]  # fmt: skip
    assert one.state.trials[A].status == "finished"


def test_state_survives_a_restart(tmp_path: Path) -> None:
    """A coordinator that was killed would forget trials, promotions or rungs, and decide differently afterwards."""
    one = ladder(tmp_path, asha=True)
    whole(one, A, "i", 0.5)
    one.promote("main", 0)
    one.begin(("main", 1, 0), "p", {})
    one.begin(("main", 1, 1), "q", {})
    epoch(one, ("main", 1, 0), 1, 0.6)
    again = Ladder(tmp_path, rules(asha=True))
    assert (again.state, again.events) == (one.state, one.events)
    assert epoch(again, ("main", 1, 1), 1, 0.1)
    assert again.state.trials["main", 1, 1].status == "stopped"
    assert again.news(after=len(one.events))[0]["outcome"] == "stopped"


def test_stopped_trial_stays_stopped(tmp_path: Path) -> None:
    """The workers of a stopped trial may finish one more epoch: it would come back to life."""
    one = ladder(tmp_path, asha=True)
    one.begin(A, "i", {})
    one.begin(("main", 0, 1), "j", {})
    epoch(one, A, 1, 0.6)
    assert epoch(one, ("main", 0, 1), 1, 0.1)
    before = len(one.events)
    assert epoch(one, ("main", 0, 1), 2, 0.9)
    assert len(one.events) == before


def test_equal_work_is_done_once(tmp_path: Path) -> None:
    """The teacher of two ladders would be trained twice, or by two processes into one directory at the same time."""
    one = ladder(tmp_path)
    other = ("b", 0, 0)
    assert one.begin(A, "i", {}) == "run"
    assert one.begin(other, "i", {}) == "wait"
    assert one.begin(("b", 0, 1), "j", {}) == "run"
    epoch(one, A, 1, 0.5, finished=True)
    assert one.begin(other, "i", {}) == "reused"
    assert one.begin(other, "i", {}) == "reused"
    assert one.state.trials[other].best_mrr == 0.5
    assert one.begin(A, "i", {}) == "closed"


def test_failed_work_is_tried_again_by_whoever_wants_it(tmp_path: Path) -> None:
    """A failure that is taken over could never be mended, and two trials that try at once would write one directory."""
    one = ladder(tmp_path)
    other = ("b", 0, 0)
    one.begin(A, "i", {})
    one.fail(A, "the loss is nan")
    assert one.begin(other, "i", {}) == "run"
    assert one.resume(A) == "wait"
    epoch(one, other, 1, 0.5, finished=True)
    assert one.resume(A) == "run"


def test_campaign_that_is_ending_decides_nothing(tmp_path: Path) -> None:
    """A grade would promote without the trial whose full disk ended the campaign, and stay so after --resume."""
    one = ladder(tmp_path)
    whole(one, A, "i", 0.5)
    one.begin(("main", 0, 1), "j", {})
    one.abort(StorageError("the disk is full"))
    before = len(one.events)
    with pytest.raises(StorageError):
        one.promote("main", 0)
    with pytest.raises(StorageError):
        one.begin(("main", 0, 2), "k", {})
    assert len(Ladder(tmp_path, rules()).events) == before


def test_warning_is_noted_once(tmp_path: Path) -> None:
    """A trial's process has no terminal: what it warns of would be lost with it."""
    one = ladder(tmp_path)
    one.begin(A, "i", {})
    for _ in range(2):
        one.note(A, "checkpoint passed over")
    assert Ladder(tmp_path, rules()).record(A).notes == ["checkpoint passed over"]


def test_teacher_follows_the_schedule(tmp_path: Path) -> None:
    """A student would learn from the wrong grade."""
    one = ladder(tmp_path)
    assert one.teacher("main", 1) is None
    whole(one, A, "i", 0.5)
    one.promote("main", 0)
    whole(one, B, "k", 0.6, 0.2)
    one.promote("main", 1)
    found = one.teacher("main", 2)
    assert found is not None
    assert found.digest == f"d{B}1"
    independent = Ladder(tmp_path, rules("independent")).teacher("main", 2)
    assert independent is not None
    assert independent.digest == f"d{A}1"


def test_run_may_be_moved(tmp_path: Path) -> None:
    """Checkpoints would be looked for where the run once was."""
    one = ladder(tmp_path / "old")
    whole(one, A, "i", 0.5)
    one.promote_given(Promotion("b", 0, "given", "/elsewhere/teacher", "d", 0, {}))
    (tmp_path / "old").rename(tmp_path / "new")
    state = read_state(tmp_path / "new")
    assert state.trials[A].best_checkpoint == str(tmp_path / "new" / "grades" / "0" / "0" / "1")
    assert state.promotions["b", 0].checkpoint == "/elsewhere/teacher"


def test_contradiction_does_not_enter_the_ledger(tmp_path: Path) -> None:
    """A refused event that was already written would make the run unreadable for ever."""
    one = ladder(tmp_path)
    whole(one, A, "i", 0.5)
    with pytest.raises(LedgerError):
        one.resume(A)
    assert Ladder(tmp_path, rules()).state.trials[A].status == "finished"


def test_running_and_failed_trials_are_not_promoted(tmp_path: Path) -> None:
    """A trial would teach before its best epoch, or after it diverged."""
    one = ladder(tmp_path)
    for number in range(2):
        one.begin(("main", 0, number), f"{number}", {})
        epoch(one, ("main", 0, number), 1, 0.5)
    one.fail(A, "the loss is nan")
    with pytest.raises(PromotionError, match="the loss is nan"):
        one.promote("main", 0)


def test_rejected_checkpoint_gives_way_to_the_next_best(tmp_path: Path) -> None:
    """One damaged file would end a campaign for ever, although sound checkpoints of nearly the same quality are there."""
    one = ladder(tmp_path)
    whole(one, A, "i", 0.5, 0.7, 0.6)
    for _ in range(2):
        one.reject(A, f"d{A}2", "weights are damaged")
    assert one.winner("main", 0).best_epoch == 3
    assert [event["kind"] for event in one.events].count("checkpoint_rejected") == 1
    again = Ladder(tmp_path, rules())
    assert again.winner("main", 0).best_epoch == 3
    for number in (1, 3):
        again.reject(A, f"d{A}{number}", "weights are damaged")
    with pytest.raises(PromotionError):
        again.winner("main", 0)
    assert again.begin(("b", 0, 0), "i", {}) == "reused"
    assert again.record(("b", 0, 0)).lost, "equal work lies in the same damaged files"
    again.resume(A)
    assert again.record(A).status == "running"
    assert epoch(again, A, 3, 0.6, finished=True)
    again.promote("main", 0)
    assert again.state.promotions["main", 0].epoch == 2
    assert not again.record(("b", 0, 0)).lost


def test_full_disk_ends_the_campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that cannot write would go on deciding things that the next one has never heard of."""
    one = ladder(tmp_path)
    one.begin(A, "i", {})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable.os, "fsync", full)
        with pytest.raises(StorageError):
            epoch(one, A, 1, 0.5)
    for use in (lambda: one.news(0), lambda: one.begin(B, "j", {})):
        with pytest.raises(StorageError, match="the disk is full"):
            use()
    assert not Ladder(tmp_path, rules()).state.trials[A].reports


def test_first_error_is_the_one_told(tmp_path: Path) -> None:
    """The reader would be told of the echo instead of the cause."""
    one = ladder(tmp_path)
    one.abort(CheckpointError("first"))
    one.abort(CheckpointError("second"))
    with pytest.raises(CheckpointError, match="first"):
        one.news(0)


def test_thousand_reports_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small trials would wait for the coordinator. CPU time, disk excluded; room for a busy machine."""
    monkeypatch.setattr(durable.os, "fsync", lambda descriptor: None)
    one = Ladder(tmp_path, Rules("sequential", 0.0, True, 1, 2, epochs=(10**6,), sizes=(1,)))
    one.start("f", ["main"], ["0"])
    for number in range(50):
        one.begin(("main", 0, number), f"{number}", {})
    begin = time.process_time()
    for step in range(1, 21):
        for number in range(50):
            epoch(one, ("main", 0, number), step, 0.5 + step / 100)
    assert time.process_time() - begin < 2
