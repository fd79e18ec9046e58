"""Locks of folders: who is said to hold one, who is waited for, and file systems that have none."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raydistill import flocks
from raydistill.errors import RunDirectoryError, StorageError
from raydistill.flocks import alone
from raydistill.orchestration import locking
from raydistill.orchestration.holding import held
from raydistill.orchestration.locking import is_held, locked
from raydistill.orchestration.processes import this_process


class Clock:
    """Goes on only while somebody sleeps; at `ends`, the lock of `descriptor` is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.ends, self.descriptor = 0.0, float("inf"), -1
        monkeypatch.setattr(locking.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(locking.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.ends:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def other(tmp_path: Path, clock: Clock) -> Iterator[Path]:
    """A run that a process of another machine holds."""
    identity = {**this_process(), "machine": "elsewhere 1234 pid:[1]"}
    descriptor = os.open(tmp_path / locking.LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, f"process 7 on elsewhere\n{json.dumps(identity)}\n".encode())
    clock.descriptor = descriptor
    yield tmp_path
    os.close(descriptor)


def test_machine_that_lost_its_power_is_waited_for(other: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A file server keeps its lock for a minute and a half, in which `--resume` would say that the dead driver is at work."""
    clock.ends = 90.0
    with locked(other):
        assert clock.now >= 90
    [said] = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert "process 7 on elsewhere" in said
    assert "up to 120 s" in said


def test_wait_for_another_machine_can_be_ended(other: Path, clock: Clock) -> None:
    """Ctrl-C while a ladder of a search waits, in a thread that hears no signal: it would be left behind after half a minute."""

    def heed() -> None:
        if clock.now >= 5:
            raise SystemExit

    with pytest.raises(SystemExit), locked(other, heed):
        raise AssertionError("it was not held")
    assert clock.now < 7


def test_driver_of_another_machine_that_lives_is_not_waited_for_for_ever(other: Path, clock: Clock) -> None:
    """A second driver would wait for days, and then go on with a campaign that is complete."""
    with pytest.raises(RunDirectoryError, match="in use by process 7 on elsewhere"), locked(other):
        pass
    assert locking.ELSEWHERE_SECONDS <= clock.now < 150


@pytest.mark.parametrize("written", ["here", "older", "nothing"])
def test_driver_of_this_machine_is_not_waited_for(tmp_path: Path, clock: Clock, written: str) -> None:
    """Its lock would be gone with it: it is alive."""
    with locked(tmp_path):
        if written != "here":
            (tmp_path / locking.LOCK).write_text("process 7 on host\n" if written == "older" else "")
        words = {"older": "process 7 on host", "nothing": "another process"}.get(written, f"process {os.getpid()} on")
        with pytest.raises(RunDirectoryError, match=f"in use by {words}"), locked(tmp_path):
            pass
    assert clock.now == 0


@pytest.mark.parametrize("lock", [locked, held])
def test_holder_is_named_before_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: Any) -> None:
    """On a file server another machine would find no name, or that of the holder before, for as long as the run goes on."""
    (tmp_path / locking.LOCK).write_text("process 7 on elsewhere\n" * 20)
    synced: list[bytes] = []
    monkeypatch.setattr(flocks.os, "fsync", lambda descriptor: synced.append(os.pread(descriptor, 4000, 0)))
    with lock(tmp_path):
        [name] = synced
    assert b"elsewhere" not in name
    assert str(os.getpid()).encode() in name


@pytest.mark.parametrize("lock", [locked, held])
def test_disk_that_is_full_when_the_holder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: Any) -> None:
    """A traceback, where a sentence would do."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(flocks.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"), lock(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_file_system_without_locks_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """On Lustre without `flock` every folder would seem to be held by somebody, whom nobody finds."""

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / locking.LOCK).touch()
    monkeypatch.setattr(flocks.fcntl, "flock", refuse)
    for lock in (locked, held, alone):
        with pytest.raises(StorageError, match="cannot be locked") as caught, lock(tmp_path / "run"):
            pass
        assert "the option `flock`" in caught.value.remedy
    assert not is_held(tmp_path), "no driver writes where it cannot lock"


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
def test_lock_that_is_held_is_no_fault_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Some file servers say EACCES."""

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / locking.LOCK).touch()
    monkeypatch.setattr(flocks.fcntl, "flock", refuse)
    assert is_held(tmp_path)
    with pytest.raises(RunDirectoryError, match="in use by another process"), locked(tmp_path):
        pass
