"""Trials that are told to end: the coordinator's side without Ray, the process's side in this one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayError

from raydistill.orchestration import halting, halts, trials
from raydistill.orchestration.halting import Notice, SigtermNotice, noticing, sigterm_notice, take_sigterm_as_notice
from raydistill.orchestration.halts import Halts
from raydistill.orchestration.shared import Shared
from raydistill.orchestration.trials import InlineTrial

KEY, OTHER = ("main", 1, 0), ("main", 1, 1)


def hear_nothing(key: tuple[str, int, int], works: bool) -> bool:
    """A coordinator that has nothing to say."""
    time.sleep(0.01)
    return False


def coordinator(**methods: Callable[..., object]) -> Any:
    """The handle of a coordinator with such methods."""
    found = {"listen": hear_nothing, **methods}
    return SimpleNamespace(**{name: SimpleNamespace(remote=method) for name, method in found.items()})


@pytest.fixture(autouse=True)
def leaving(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What Ray says, one time after the other and at last for ever, when it is asked whether this machine is about to go."""
    said = [False]
    monkeypatch.setattr(halting, "is_leaving", lambda: said.pop(0) if len(said) > 1 else said[0])
    monkeypatch.setattr(halting, "MACHINE_SECONDS", 0.01)
    return said


@pytest.fixture
def sigterm() -> Iterator[SigtermNotice]:
    """The notice of this process, for the time of a test. Ray may have left a handler of its own."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    take_sigterm_as_notice()
    yield sigterm_notice()
    signal.signal(signal.SIGTERM, before)


@contextmanager
def noticed(methods: dict[str, Callable[..., object]], **how: bool) -> Iterator[Notice]:
    """`noticing`, until the last of its threads has ended: what a test puts in their way is taken out again after it."""
    before = set(threading.enumerate())
    with noticing(coordinator(**methods), KEY, **how) as notice:
        threads = set(threading.enumerate()) - before
        yield notice
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_only_the_trial_that_is_meant_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that grows would end all others with it, or be ended again and again after it has grown."""
    monkeypatch.setattr(halts, "LISTEN_SECONDS", 5.0)
    one = Halts(Shared())
    with ThreadPoolExecutor() as threads:
        asked, other = threads.submit(one.listen, KEY), threads.submit(one.listen, OTHER)
        until(lambda: one.at_work == {KEY, OTHER})
        one.halt(KEY)
        assert asked.result(4)
        assert not other.done()
        one.rest(KEY)
        again = threads.submit(one.listen, KEY)
        assert not again.result(20)
        assert not other.result(20)


def test_nobody_listens_for_a_trial_that_rests() -> None:
    """Threads that are held for ten seconds by trials that are over, while those of others wait for one; or a worker that ends because a trial did."""
    one = Halts(Shared())
    with ThreadPoolExecutor() as threads:
        ended = [threads.submit(one.listen, KEY, first) for first in (True, False)]
        other = threads.submit(one.listen, OTHER)
        until(lambda: one.at_work == {KEY, OTHER})
        time.sleep(0.05)
        one.rest(KEY)
        assert [hearing.result(5) for hearing in ended] == [False, False]
        assert not other.done()
        one.halt(OTHER)
        assert other.result(5)


def test_every_worker_hears_and_one_is_waited_for() -> None:
    """A worker that hears nothing goes on with hours of its teacher's pass, while the one that heard waits for it; or a campaign whose end waits
    for a worker that asked once more after its trial had saved."""
    one = Halts(Shared())
    with ThreadPoolExecutor() as threads:
        asked = [threads.submit(one.listen, KEY, first) for first in (True, False)]
        until(lambda: KEY in one.at_work)
        one.halt(KEY)
        assert [hearing.result(1) for hearing in asked] == [True, True]
        one.rest(KEY)
        late = threads.submit(one.listen, KEY, False)
        time.sleep(0.05)
        assert one.halt_all(5) == 0
        assert late.result(1)


def test_end_of_the_campaign_waits_for_those_at_work_and_no_longer() -> None:
    """A driver that leaves before its trials have saved, or one that waits for ever for a trial that cannot."""
    one = Halts(Shared())
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(one.listen, KEY)
        until(lambda: KEY in one.at_work)
        ended = threads.submit(one.halt_all, 5)
        assert asked.result(1)
        assert not ended.done()
        one.rest(KEY)
        assert ended.result(1) == 0
        assert threads.submit(one.listen, OTHER).result(1)
        began = time.monotonic()
        assert one.halt_all(0.1) == 1
        assert time.monotonic() - began < 1


def test_question_is_answered_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that is never answered keeps the process of a trial that ended from asking for the next one."""
    monkeypatch.setattr(halts, "LISTEN_SECONDS", 0.05)
    assert Halts(Shared()).listen(KEY) is False


def test_sigterm_is_a_notice_once_while_a_trial_is_at_work(sigterm: SigtermNotice) -> None:
    """An hour of work lost because the process ended at once; or a process that cannot be ended at all."""
    take_sigterm_as_notice()
    assert sigterm_notice() is sigterm
    notice = Notice(sigterm, lambda: None)
    sigterm.at_work = True
    os.kill(os.getpid(), signal.SIGTERM)
    assert notice()
    with pytest.raises(SystemExit) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 143


def test_sigterm_ends_a_process_whose_trial_is_over(sigterm: SigtermNotice) -> None:
    """An idle process that only Ray's SIGKILL could end."""
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_to_a_worker_that_cannot_save_reaches_the_one_that_can(
    sigterm: SigtermNotice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preempted machine whose worker knows, and nobody else: the epoch of hours that it validates is lost.

    The coordinator is just being started again when it is told for the first time.
    """
    told, reached = [], threading.Event()

    def halt(key: tuple[str, int, int]) -> None:
        told.append(key)
        if len(told) == 1:
            raise RayError("the actor is being restarted")
        reached.set()

    monkeypatch.setattr(halting, "ask", lambda answer: answer)
    monkeypatch.setattr(halting, "AGAIN_SECONDS", 0.0)
    with noticing(coordinator(halt=halt), KEY, first=False, alone=False) as notice:
        assert not notice()
        assert told == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert reached.wait(60)
        assert notice()
    assert told == [KEY, KEY]


@pytest.mark.parametrize(("first", "alone"), [(True, True), (True, False), (False, False)])
def test_word_to_the_machine_is_one_to_its_processes(
    sigterm: SigtermNotice, leaving: list[bool], monkeypatch: pytest.MonkeyPatch, first: bool, alone: bool
) -> None:
    """A pod that is deleted, or a spot machine that is wanted back: Ray's node is told, and the trial trains on until it is killed."""
    told: list[object] = []
    monkeypatch.setattr(halting, "ask", lambda answer: answer)
    with noticed({"halt": told.append, "rest": str}, first=first, alone=alone) as notice:
        time.sleep(0.05)
        assert not notice()
        leaving.append(True)
        until(notice)
        # Its process is not given another trial, and the other workers hear of it; the signal that comes later is its first.
        assert sigterm.told
        assert not sigterm.received
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: sigterm.received)
        if not alone:
            until(lambda: told == [KEY])
        # A late answer from before the word changes nothing.
        leaving[:] = [False]
        time.sleep(0.05)
        assert notice()
    assert told == ([] if alone else [KEY])


def test_head_that_does_not_answer_is_asked_again(sigterm: SigtermNotice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that ends with the first answer that is late, and nobody who looks any more."""
    asked: list[int] = []

    def late() -> bool:
        asked.append(1)
        if len(asked) < 3:
            raise RayError("deadline exceeded")
        return True

    monkeypatch.setattr(halting, "ask", lambda answer: answer)
    monkeypatch.setattr(halting, "is_leaving", late)
    with noticed({"rest": str}) as notice:
        until(notice)
    assert len(asked) == 3


@pytest.mark.parametrize("first", [True, False])
def test_every_worker_is_told_what_the_coordinator_says(
    sigterm: SigtermNotice, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """The other workers of a trial that is to end, which go on until they meet the first one; or one that says too early that the trial has saved."""
    said, rested = threading.Event(), list[object]()
    monkeypatch.setattr(halting, "ask", lambda answer: answer)

    def listen(key: tuple[str, int, int], works: bool) -> bool:
        assert works is first
        return said.wait(0.01)

    with noticing(coordinator(listen=listen, rest=rested.append), KEY, first=first) as notice:
        assert not notice()
        said.set()
        for _ in range(600):
            if notice():
                break
            time.sleep(0.1)
        assert notice()
        assert rested == []
    assert (KEY in rested) is first


@pytest.mark.parametrize("done", [True, False])
def test_process_whose_trial_ended_while_it_was_told_begins_no_other(
    sigterm: SigtermNotice, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    """A word that came after the last step of a trial and was forgotten: its process builds the next one, or stays until it is killed."""
    left: list[object] = []
    trial = InlineTrial.__new__(InlineTrial)
    trial.coordinator, trial.key = coordinator(leave=left.append), KEY
    monkeypatch.setattr(trials, "ask", lambda answer: answer)
    monkeypatch.setattr(trial, "work", lambda: {"epoch": 1, "done": done}, raising=False)
    assert trial.step() == {"epoch": 1, "done": done}
    sigterm.at_work = True
    os.kill(os.getpid(), signal.SIGTERM)
    sigterm.at_work = False
    if not done:
        # It has yet to save, and does so in its next step.
        assert trial.step() == {"epoch": 1, "done": False}
        assert left == []
        return
    with pytest.raises(SystemExit) as caught:
        trial.step()
    assert caught.value.code == 143
    assert left == [KEY]


def test_trial_that_saved_and_cannot_end_yet_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in a step of a minute, with all that it had learnt on disk, it would count as one that failed."""
    left: list[object] = []
    monkeypatch.setattr(halting, "ask", lambda answer: answer)
    with noticed({"leave": left.append, "rest": lambda key: None}) as notice:
        assert left == []
        notice.has_saved()
    assert left == [KEY]


def test_worker_tells_nobody_of_a_trial_that_is_over(sigterm: SigtermNotice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads for every trial of a process; or a SIGTERM between two trials that ends the one before once more."""
    told: list[object] = []
    monkeypatch.setattr(halting, "ask", lambda answer: answer)
    before = set(threading.enumerate())
    with noticing(coordinator(halt=told.append), KEY, first=False, alone=False):
        threads = set(threading.enumerate()) - before
    sigterm.received = True
    for thread in threads:
        thread.join(60)
    assert len(threads) == 3
    assert not any(thread.is_alive() for thread in threads)
    assert told == []
