"""Processes whose cluster has lost its head: a head that refuses is gone, one that says nothing may be behind a broken network."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from ray.exceptions import RaySystemError

from raydistill.orchestration import orphans
from raydistill.orchestration.orphans import RECONNECT, end_with_head, watch

ANSWERS, REFUSES, SILENT = "answers", "refuses", "silent"


class EndedError(Exception):
    """In place of the end of this process."""


class FakeHead:
    """A head that says one thing after the other; when it has nothing left to say, the test is over."""

    address = "127.0.0.1:1"

    def __init__(self, *says: str) -> None:
        self.says = list(says)
        self.refused, self.looks = False, 0

    def answers(self) -> bool:
        said = self.says.pop(0)
        self.refused = said == REFUSES
        self.looks = 0 if said == ANSWERS else self.looks + 1
        return said == ANSWERS

    def silent(self) -> float:
        """A look takes five seconds, with the pause before it."""
        return 5.0 * self.looks


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Signals this process would have got. Nobody sleeps, and Ray does not reach the head either."""
    signals = list[int]()

    def leave(code: int) -> None:
        raise EndedError(code)

    def lost(seconds: float) -> None:
        raise RaySystemError("the head does not answer")

    monkeypatch.setattr(orphans, "leaving_machines", lost)
    monkeypatch.setattr(orphans, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr(orphans.os, "kill", lambda pid, number: signals.append(number))
    monkeypatch.setattr(orphans.os, "_exit", leave)
    return signals


@pytest.mark.parametrize(
    "says",
    [
        [REFUSES] * 3,
        [SILENT, ANSWERS, REFUSES, SILENT] + [REFUSES] * 3,
        [SILENT] * 7,
        [SILENT] * 6 + [ANSWERS] + [SILENT] * 7,
        [REFUSES, SILENT] * 4,
    ],
    ids=["refuses", "refuses after a break", "silent", "silent after a break", "both"],
)
def test_process_is_told_and_then_ended_when_the_head_is_gone(told: list[int], says: list[str]) -> None:
    """It would live for a minute, with a GPU, and send what nobody asks for."""
    with pytest.raises(EndedError, match=str(128 + signal.SIGTERM)):
        watch(FakeHead(*says))  # type: ignore[arg-type]
    assert told == [signal.SIGTERM]


@pytest.mark.parametrize(
    "says",
    [([SILENT] * 6 + [ANSWERS]) * 5, [REFUSES, REFUSES, ANSWERS] * 9, [REFUSES, REFUSES, SILENT, SILENT, ANSWERS] * 9],
    ids=["silent", "refuses", "refuses and falls silent"],
)
def test_process_of_a_head_that_may_be_there_goes_on(told: list[int], says: list[str]) -> None:
    """A network that is broken for seconds would end every trial of a campaign."""
    with pytest.raises(IndexError):
        watch(FakeHead(*says))  # type: ignore[arg-type]
    assert told == []


def test_what_stands_before_a_head_that_lives_ends_nobody(told: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The service of a pod that is not ready refuses, and the head behind it goes on."""
    monkeypatch.setattr(orphans, "leaving_machines", lambda seconds: set())
    with pytest.raises(IndexError):
        watch(FakeHead(*[REFUSES] * 9))  # type: ignore[arg-type]
    assert told == []


def test_word_that_cannot_be_said_keeps_nobody_alive(told: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full of logs would end the watch."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(orphans.sys, "stderr", closed)
    with pytest.raises(EndedError):
        watch(FakeHead(*[REFUSES] * 3))  # type: ignore[arg-type]
    assert told == [signal.SIGTERM]


@pytest.mark.parametrize(("seconds", "awaits"), [("600", True), ("60", False), ("10", False), ("", False)])
def test_head_whose_state_is_kept_elsewhere_is_waited_for(
    seconds: str, awaits: bool, told: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses until it has started again; Ray is told to wait for as long. One that never comes back would have its trials at work for ever."""
    monkeypatch.setenv(RECONNECT, seconds)
    watched = list[tuple[FakeHead, float]]()
    monkeypatch.setattr(orphans, "Head", lambda address: FakeHead(*[REFUSES, SILENT] * 70))
    context = SimpleNamespace(gcs_address="127.0.0.1:1")
    monkeypatch.setattr(orphans, "ray", SimpleNamespace(get_runtime_context=lambda: context))

    def thread(target: object, args: tuple[FakeHead, float], **how: object) -> SimpleNamespace:
        return SimpleNamespace(start=lambda: watched.append(args))

    monkeypatch.setattr(orphans, "threading", SimpleNamespace(Thread=thread))
    end_with_head.__wrapped__()
    [(head, patience)] = watched
    with pytest.raises(EndedError):
        watch(head, patience)  # type: ignore[arg-type]
    assert head.silent() == (605.0 if awaits else 40.0)


LEFT = """
import signal, socket, sys, time
from raydistill.orchestration import orphans
from raydistill.orchestration.losses import Head
orphans.LOOK_SECONDS = orphans.AGAIN_SECONDS = 0.1
orphans.HALT_SECONDS = {halt}
def save(number, frame):
    print("saved", flush=True)
    if {ends}:
        sys.exit(143)
signal.signal(signal.SIGTERM, save)
with socket.create_server(("127.0.0.1", 0)) as server:
    head = Head(f"127.0.0.1:{{server.getsockname()[1]}}")
import threading
threading.Thread(target=orphans.watch, args=(head,), daemon=True).start()
for _ in range(600):
    time.sleep(0.1)
"""


@pytest.mark.parametrize(("ends", "halt"), [(True, 60.0), (False, 0.5)], ids=["by itself", "made to"])
def test_orphan_saves_before_it_ends(ends: bool, halt: float) -> None:
    """What a trial has learned since its last checkpoint would be learned again, though there was time to save it."""
    code = LEFT.format(ends=ends, halt=halt)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=200)
    assert done.stdout == "saved\n", done.stderr
    assert done.returncode == 128 + signal.SIGTERM
