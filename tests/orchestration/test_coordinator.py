"""The coordinator without Ray: what it answers while one of its decisions waits for files."""

from __future__ import annotations

import inspect
import pickle
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fakes
import pytest

from raydistill.errors import LedgerError, RayDistillError, StorageError
from raydistill.orchestration import coordinator as coordinating
from raydistill.orchestration import shelf
from raydistill.orchestration.answering import DECIDING, FOLLOWING, HALTING, LISTENING, STAYING
from raydistill.orchestration.coordinator import WAIT_SECONDS, Coordinator
from raydistill.orchestration.ladder import Ladder
from raydistill.orchestration.ledger import Ledger
from raydistill.orchestration.library import Loan
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.sealed import Sealed
from raydistill.planning.rules import Rules

TEACHER, STUDENT, TWIN = ("main", 0, 0), ("main", 1, 0), ("main", 1, 1)
SECONDS = 20.0
RULES = Rules("pipelined", 0.0, False, 1, 2, epochs=(3, 3), sizes=(12, 6))


class Slow:
    """Something that takes until it is let go."""

    def __init__(self, act: Callable[..., Any]) -> None:
        self.act, self.calls = act, 0
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        self.begun.set()
        assert self.go.wait(SECONDS), "nobody was answered meanwhile"
        return self.act(*arguments)


def started(root: Path) -> Coordinator:
    one = Coordinator(RunStore.at(root), RULES)
    one.start("f", ["main"], ["0-teacher", "1-layers6"])
    return one


def kinds(one: Coordinator) -> list[str]:
    return [event["kind"] for event in one.news(0)]


def answered_meanwhile(one: Coordinator, slow: Slow, threads: ThreadPoolExecutor) -> None:
    """Ask everything that may not wait, while something takes."""
    assert slow.begun.wait(SECONDS)
    one.enter(STUDENT)
    assert one.wait(TEACHER, -1).status == "running"
    listening = threads.submit(one.listen, TEACHER)
    time.sleep(0.05)
    ended = threads.submit(one.halt_all, SECONDS)
    assert listening.result(SECONDS)
    one.rest(TEACHER)
    assert ended.result(SECONDS) == 0


def test_nobody_waits_for_a_teacher_that_is_copied_but_other_decisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM would be heard when gigabytes have been copied, which is later than SIGKILL; or a decision be made between the two halves of another."""
    slow = Slow(shutil.copyfile)
    monkeypatch.setattr(shelf, "link_or_copy", slow)
    checkpoint = tmp_path / "grades" / "0-teacher" / "1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_text("w")
    one = started(tmp_path)
    one.begin(TEACHER, "i", {})
    one.begin(STUDENT, "j", {})
    with ThreadPoolExecutor() as threads:
        metrics = {"valid/both/mrr": 0.5}
        reporting = threads.submit(one.report, TEACHER, 1, metrics, str(checkpoint), "d" * 64, False)
        answered_meanwhile(one, slow, threads)
        assert one.teach(STUDENT, 0) is None
        assert kinds(one)[-1] == "trial_reported"
        failing = threads.submit(one.fail, STUDENT, "the loss is nan")
        time.sleep(0.05)
        assert not failing.done()
        slow.go.set()
        assert not reporting.result(SECONDS)
        failing.result(SECONDS)
    assert kinds(one)[-3:] == ["trial_reported", "teacher_announced", "trial_failed"]


class Lender:
    """A library that has one trial, and takes its time."""

    def __init__(self) -> None:
        report = {"epoch": 3, "metrics": {"valid/both/mrr": 0.5}, "checkpoint": "c", "digest": "d", "time": 1.0}
        self.borrow = Slow(lambda identity, folder: Loan("elsewhere", 3, (report,)))


def test_trials_hear_of_the_end_while_an_event_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage that does not answer for minutes would keep the word from trials that have five seconds to save."""
    one = started(tmp_path)
    one.begin(TEACHER, "i", {})
    slow = Slow(Ledger.append)
    monkeypatch.setattr(Ledger, "append", lambda *arguments: slow(*arguments))
    with ThreadPoolExecutor() as threads:
        noting = threads.submit(one.note, TEACHER, "a note")
        assert slow.begun.wait(SECONDS)
        listening = threads.submit(one.listen, TEACHER)
        deadline = time.monotonic() + SECONDS / 4
        while not one.halts.at_work and time.monotonic() < deadline:
            time.sleep(0.01)
        ended = threads.submit(one.halt_all, SECONDS)
        assert listening.result(SECONDS / 2)
        one.leave(TEACHER)
        one.rest(TEACHER)
        assert ended.result(SECONDS / 2) == 0
        slow.go.set()
        noting.result(SECONDS)


def test_equal_work_is_borrowed_once_while_others_are_answered(tmp_path: Path) -> None:
    """Of two trials that begin meanwhile the second would be trained beside the first, or be entered twice."""
    one, lender = started(tmp_path), Lender()
    one.begin(TEACHER, "i", {})
    one.ladder.library = lender  # type: ignore[assignment]
    with ThreadPoolExecutor() as threads:
        first = threads.submit(one.begin, STUDENT, "same", {})
        assert lender.borrow.begun.wait(SECONDS)
        second = threads.submit(one.begin, TWIN, "same", {})
        answered_meanwhile(one, lender.borrow, threads)
        assert kinds(one)[-1] == "trial_begun"
        assert not second.done()
        lender.borrow.go.set()
        assert [first.result(SECONDS), second.result(SECONDS)] == ["reused", "reused"]
    assert lender.borrow.calls == 1
    assert one.record(TWIN).reused_from == STUDENT


def test_decision_whose_files_fail_lets_the_next_one_decide(tmp_path: Path) -> None:
    """A turn that is never given back: every trial would wait for ever."""
    one, lender = started(tmp_path), Lender()
    one.ladder.library = lender  # type: ignore[assignment]
    lender.borrow = Slow(lambda identity, folder: 1 / 0)
    lender.borrow.go.set()
    with pytest.raises(ZeroDivisionError):
        one.begin(STUDENT, "same", {})
    one.ladder.library = None
    with ThreadPoolExecutor() as threads:
        assert threads.submit(one.begin, STUDENT, "same", {}).result(SECONDS) == "run"


def test_whoever_follows_a_trial_hears_of_a_report_at_once(tmp_path: Path) -> None:
    """A search that hears of every epoch a second late; or for which a trial that ended runs for ever."""
    one = started(tmp_path)
    one.begin(TEACHER, "i", {})
    began = time.monotonic()
    assert one.wait(TEACHER, 0).reports == []
    assert time.monotonic() - began >= WAIT_SECONDS
    with ThreadPoolExecutor() as threads:
        following = threads.submit(one.wait, TEACHER, 0)
        time.sleep(0.05)
        one.fail(TEACHER, "the loss is nan")
        assert following.result(WAIT_SECONDS / 2).status == "failed"


def test_answer_is_of_the_moment_it_was_given(tmp_path: Path) -> None:
    """A record that changes while it is sent: half of it is of one moment, half of another."""
    one = started(tmp_path)
    one.begin(TEACHER, "i", {})
    asked = [one.record(TEACHER), one.study("main", 0)[0], one.wait(TEACHER, -1)]
    one.report(TEACHER, 1, {"valid/both/mrr": 0.5}, None, None, False)
    one.note(TEACHER, "it is slow")
    one.fail(TEACHER, "the loss is nan")
    assert [(record.status, record.reports, record.notes) for record in asked] == [("running", [], [])] * 3
    assert len(one.record(TEACHER).reports) == 1


def test_whoever_waits_has_threads_of_its_own() -> None:
    """The fifth trial that listens would keep everybody from an answer for ten seconds; or a decision of minutes all that are answered at once."""
    groups = {
        name: getattr(method, "__ray_concurrency_group__", None)
        for name, method in inspect.getmembers(Coordinator, inspect.isfunction)
    }
    waiting = {name: group for name, group in groups.items() if group not in (None, DECIDING)}
    ends = dict.fromkeys(("rest", "leave", "left", "halt", "halt_all"), HALTING)
    assert waiting == {"wait": FOLLOWING, "listen": LISTENING, "take_up": STAYING, **ends}
    turns = {name for name in groups if "_turn" in inspect.getsource(getattr(Coordinator, name))} - {"__init__"}
    assert turns == {name for name, group in groups.items() if group == DECIDING}
    assert "report" in turns


class Failing:
    """A ladder whose ledger cannot be read at first."""

    def __init__(self, failures: int, problem: Exception) -> None:
        self.failures, self.problem, self.tries = failures, problem, 0

    def __call__(self, *given: Any) -> Ladder:
        self.tries += 1
        if self.tries <= self.failures:
            raise self.problem
        return Ladder(*given)


def restarted(root: Path, monkeypatch: pytest.MonkeyPatch, ladder: Failing, patience: float = SECONDS) -> Coordinator:
    """A coordinator that Ray has started again: nobody tells it what the campaign consists of."""
    started(root)
    monkeypatch.setattr(coordinating, "Ladder", ladder)
    monkeypatch.setattr(coordinating, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(coordinating, "READ_SECONDS", patience)
    return Coordinator(RunStore.at(root), RULES)


FULL = StorageError("the bucket does not answer")


def test_coordinator_that_is_started_again_outlives_a_storage_that_fails_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of its constructor would be its end for good, and that of the campaign: exit 70, `a fault of raydistill`."""
    ladder = Failing(3, FULL)
    one = restarted(tmp_path, monkeypatch, ladder)
    assert ladder.tries == 0
    with ThreadPoolExecutor() as threads:
        asked = [threads.submit(kinds, one) for _ in range(4)]
        assert [answer.result(SECONDS) for answer in asked] == [["campaign_started"]] * 4
    assert ladder.tries == 4, "it is read once for all"


def test_coordinator_outlives_a_bucket_whose_region_cannot_be_asked_for_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its arguments are read before its constructor runs, and whatever goes wrong there is its end for good."""
    started(tmp_path)
    monkeypatch.setattr(coordinating, "AGAIN_SECONDS", 0.01)
    away = tmp_path / ".away"
    away.touch()
    one = pickle.loads(pickle.dumps(Sealed(fakes.Bucket(tmp_path, away))))
    with pytest.raises(StorageError, match="cannot be reached: no region"):
        one.open()
    again = Coordinator(one, RULES)
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(kinds, again)
        time.sleep(0.1)
        assert not asked.done()
        away.unlink()
        assert asked.result(SECONDS) == ["campaign_started"]


@pytest.mark.parametrize("problem", [FULL, LedgerError("event 3 is damaged")], ids=["storage", "ledger"])
def test_error_of_the_ledger_reaches_whoever_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: RayDistillError
) -> None:
    """`The actor died`, and no word of what to mend; or a minute of silence for a ledger that does not mend itself."""
    ladder = Failing(99, problem)
    one = restarted(tmp_path, monkeypatch, ladder, patience=0.1 if problem is FULL else SECONDS)
    began = time.monotonic()
    with pytest.raises(type(problem), match=problem.received):
        one.news(0)
    assert (ladder.tries > 2) is (problem is FULL)
    tries = ladder.tries
    with pytest.raises(type(problem)):
        one.start("f", ["main"], ["0-teacher"])
    assert ladder.tries == tries + 1, "a driver that begins is told at once"
    assert time.monotonic() - began < SECONDS / 2
    ladder.failures = 0
    assert kinds(one) == ["campaign_started"], "it is not dead for good"
