"""Pieces of work in threads: what ends, what fails, and who is told."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable

import pytest

from raydistill.errors import ClusterError, StorageError
from raydistill.orchestration.side_by_side import SideBySide


class Campaign:
    """Works until it is let go, or told to end."""

    def __init__(self, heed: Callable[[], None], last_words: BaseException | None = None) -> None:
        self.heed, self.last_words = heed, last_words
        self.let_go, self.saved, self.begun = threading.Event(), False, threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        try:
            while not self.let_go.wait(0.01):
                self.heed()
        except SystemExit:
            self.saved = True
            if self.last_words is not None:
                raise self.last_words from None
            raise
        return "done"


def test_results_come_as_they_end_and_not_as_they_began() -> None:
    """A short ladder would wait for a long one, and its place stay empty."""
    with SideBySide[str]() as ladders:
        first, second = Campaign(ladders.heed), Campaign(ladders.heed)
        ladders.start(0, first)
        ladders.start(1, second)
        assert ladders.running == [0, 1]
        second.let_go.set()
        assert ladders.wait() == (1, "done")
        assert ladders.running == [0]
        first.let_go.set()
        assert ladders.wait() == (0, "done")
        assert ladders.running == []


def test_a_nudge_wakes_who_waits() -> None:
    """The teacher is there, and the ladders that may begin now would begin when the first one ends."""
    with SideBySide[str]() as ladders:
        one = Campaign(ladders.heed)
        ladders.start(0, one)
        threading.Timer(0.05, ladders.nudge).start()
        assert ladders.wait() is None
        one.let_go.set()
        assert ladders.wait() == (0, "done")


def test_what_fails_ends_the_others_which_save_first(caplog: pytest.LogCaptureFixture) -> None:
    """A lost storage: the other ladders would train on for nobody, or be cut off in the middle of a step."""

    def fails() -> str:
        raise ClusterError("the head of the cluster is lost")

    ladders = SideBySide[str]()
    quiet, loud = Campaign(ladders.heed), Campaign(ladders.heed, StorageError("the disk is full"))

    def run() -> None:
        with ladders:
            for number, one in enumerate((quiet, loud)):
                ladders.start(number, one)
                assert one.begun.wait(10)
            ladders.start(2, fails)
            ladders.wait()

    with caplog.at_level(logging.WARNING), pytest.raises(ClusterError, match="the head of the cluster is lost"):
        run()
    assert quiet.saved
    assert loud.saved
    assert "beside it: the disk is full" in caplog.text


def test_an_interruption_is_heard_while_others_work() -> None:
    """Ctrl-C would be heard when the first ladder ends, hours later."""

    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    ladders = SideBySide[str]()
    began, one = time.monotonic(), Campaign(ladders.heed)

    def run() -> None:
        with ladders:
            ladders.start(0, one)
            assert one.begun.wait(10)
            threading.Timer(0.05, interrupt).start()
            ladders.wait()

    with pytest.raises(KeyboardInterrupt):
        run()
    assert one.saved
    assert time.monotonic() - began < 10


def test_who_does_not_end_is_not_waited_for_for_ever() -> None:
    """A campaign that waits for a machine hears nothing for half an hour, and a second Ctrl-C would be needed."""
    hangs = threading.Event()
    began = time.monotonic()
    left: list[str] = []
    ladders = SideBySide[str](seconds=0.1, on_left=lambda: left.append("somebody"))
    ends = Campaign(ladders.heed)

    def run() -> None:
        with ladders:
            ladders.start(0, lambda: str(hangs.wait(60)))
            ladders.start(1, ends)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert time.monotonic() - began < 10
    assert (left, ladders.running, ends.saved) == (["somebody"], [0], True)
    hangs.set()


def test_who_interrupts_twice_leaves_nobody_unnoticed() -> None:
    """The second Ctrl-C comes in the half minute in which nothing seems to happen."""
    hangs, left = threading.Event(), list[str]()
    ladders = SideBySide[str](seconds=60, on_left=lambda: left.append("somebody"))

    def run() -> None:
        with ladders:
            ladders.start(0, lambda: str(hangs.wait(60)))
            threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
            raise SystemExit

    with pytest.raises(KeyboardInterrupt):
        run()
    assert (left, ladders.running) == (["somebody"], [0])
    hangs.set()


def test_nobody_is_left_where_all_end() -> None:
    """Ray would be kept from connecting again in a notebook whose search was only interrupted."""
    left: list[str] = []
    with SideBySide[str](on_left=lambda: left.append("somebody")) as ladders:
        ladders.start(0, Campaign(ladders.heed))
    assert left == []


def test_wait_has_an_end() -> None:
    """Whether the search was taken by another driver would be seen when a ladder ends, hours later."""
    with SideBySide[str]() as ladders:
        one = Campaign(ladders.heed)
        ladders.start(0, one)
        assert ladders.wait(0.05) is None
        assert ladders.running == [0]
        one.let_go.set()
        assert ladders.wait() == (0, "done")
