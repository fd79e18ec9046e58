"""How long storage is asked again, and when not at all."""

from __future__ import annotations

import errno
import logging
import os
import threading

import pytest

from raydistill.orchestration import patience
from raydistill.orchestration.patience import hurried, leaving, once, patiently

SLOW = "AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate."
UNREACHED = "AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 6, Couldn't resolve host name"


class Clock:
    """A clock that goes on only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(patience.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(patience.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Moody:
    """Fails until a moment, each time after `takes` seconds."""

    def __init__(self, clock: Clock, until: float, problem: OSError, takes: float = 0.0) -> None:
        self.clock, self.until, self.problem, self.takes, self.calls = clock, until, problem, takes, 0

    def __call__(self) -> str:
        self.calls += 1
        self.clock.sleep(self.takes)
        if self.clock.now < self.until:
            raise self.problem
        return "done"


@pytest.mark.parametrize("text", [SLOW, UNREACHED, "AWS Error UNKNOWN: ExpiredToken"])
@pytest.mark.parametrize("seconds", [0.1, 10.0, 150.0])
def test_trouble_of_minutes_is_sat_out(
    clock: Clock, caplog: pytest.LogCaptureFixture, text: str, seconds: float
) -> None:
    """A bucket that slows down for ten seconds would end a campaign of days; or one that does not come back be waited for in silence."""
    assert patiently(Moody(clock, seconds, OSError(text))) == "done"
    assert clock.now < seconds + 12, "pauses do not grow for ever"
    said = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(said) == (seconds > 5)
    assert all("asked again for up to 180 s" in one and text in one for one in said)


@pytest.mark.parametrize("takes", [0.0, 30.0])
def test_patience_ends(clock: Clock, takes: float) -> None:
    """A wrong endpoint would hang for ever; or twenty attempts that take half a minute each be ten minutes."""
    act = Moody(clock, 1e9, OSError(UNREACHED), takes)
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        patiently(act)
    assert 120 < clock.now < 240 + takes
    assert act.calls > 3


@pytest.mark.parametrize(
    "problem",
    [
        OSError("AWS Error ACCESS_DENIED during PutObject"),
        OSError("google::cloud::Status(PERMISSION_DENIED: no)"),
        OSError("AWS Error NO_SUCH_BUCKET during PutObject"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError("[Errno 28] No space left on device"),
        OSError(errno.EROFS, os.strerror(errno.EROFS)),
        FileNotFoundError("gone"),
        PermissionError("no"),
    ],
    ids=str,
)
def test_what_does_not_pass_is_told_at_once(clock: Clock, problem: OSError) -> None:
    """A wrong key would be tried for minutes before anybody is told."""
    act = Moody(clock, 1e9, problem)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the very one
        patiently(act)
    assert caught.value is problem
    assert (act.calls, clock.now) == (1, 0)


def test_machines_do_not_come_back_in_one_moment(clock: Clock) -> None:
    """A storage that asked for less would be asked by all streams of all machines at once, again and again."""
    moments = set()
    for _ in range(5):
        began = clock.now
        patiently(Moody(clock, began + 20, OSError(SLOW)))
        moments.add(round(clock.now - began, 3))
    assert len(moments) > 1


@pytest.mark.parametrize("told_at", [0.0, 3.0, 60.0])
def test_whoever_is_told_to_end_has_no_minutes(clock: Clock, told_at: float) -> None:
    """A trial that was told to end would be killed while it waits for a storage, and not have saved."""
    act = Moody(clock, 1e9, OSError(UNREACHED))
    with hurried(lambda: clock.now >= told_at), pytest.raises(OSError, match="NETWORK_CONNECTION"):
        patiently(act)
    assert clock.now <= max(told_at, patience.HURRY_SECONDS) + patience.LOOK_SECONDS
    clock.now = 0.0
    assert patiently(Moody(clock, 60, OSError(UNREACHED))) == "done", "nobody is told any more"


@pytest.mark.parametrize("leaving", [SystemExit, KeyboardInterrupt])
def test_driver_on_its_way_out_has_no_minutes(clock: Clock, leaving: type[BaseException]) -> None:
    """What a driver writes when it was told to end would outlast the time that it is given."""

    def leave() -> None:
        try:
            raise leaving
        finally:
            with pytest.raises(OSError, match="NETWORK_CONNECTION"):
                patiently(Moody(clock, 1e9, OSError(UNREACHED)))

    with pytest.raises(leaving):
        leave()
    assert clock.now <= patience.HURRY_SECONDS + patience.LOOK_SECONDS


def test_who_leaves_takes_no_patience_from_others(clock: Clock) -> None:
    """A ladder that ends lets go of its lease: one beside it, whose storage is slow at that moment, would end the search."""
    left, entered = threading.Event(), threading.Event()

    def leave() -> None:
        with leaving():
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=leave)
    thread.start()
    assert entered.wait(10)
    assert patiently(Moody(clock, 60, OSError(UNREACHED))) == "done"
    left.set()
    thread.join()
    clock.now = 0.0
    with leaving(), pytest.raises(OSError, match="NETWORK_CONNECTION"):
        patiently(Moody(clock, 60, OSError(UNREACHED)))
    assert clock.now <= patience.HURRY_SECONDS + patience.LOOK_SECONDS


def test_once_is_once(clock: Clock) -> None:
    """A lease has to be looked at before every attempt to write it."""
    act = Moody(clock, 1e9, OSError(UNREACHED))
    with once(), pytest.raises(OSError, match="NETWORK_CONNECTION"):
        patiently(act)
    assert act.calls == 1
    assert patiently(Moody(clock, 5, OSError(UNREACHED))) == "done"
