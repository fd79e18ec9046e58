"""One writer per trial directory."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from raydistill.errors import TrialError
from raydistill.orchestration import holding
from raydistill.orchestration.processes import process_of, running, this_process

HOLDER = """
import sys, time
from pathlib import Path
from raydistill.orchestration.holding import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_abandoned_writer_is_killed_and_the_directory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial process that was given up but lives on would make its successor fail, and with it the grade."""
    monkeypatch.setattr(holding, "PATIENCE_SECONDS", 0.3)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with holding.held(tmp_path):
        assert holder.wait(5) == -9


@pytest.mark.parametrize("differs", ["machine", "ticks", "began", "form"])
def test_process_of_the_same_number_is_not_killed_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, differs: str
) -> None:
    """On a file server the holder may be process 37 of a clone or a container of the same host name: a stranger's process would be killed here."""
    monkeypatch.setattr(holding, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(holding, "HOLD_SECONDS", 0.5)
    stranger = subprocess.Popen(["sleep", "60"])
    holder: dict[str, Any] = process_of(stranger.pid)
    if differs == "began":
        # As releases wrote it that knew no other clock.
        del holder["ticks"]
    assert running(holder) is not None, "or it would be left alone for want of a holder"
    host = socket.gethostname()
    others = {
        "machine": {"machine": f"{host} 1234 pid:[1]"},
        "ticks": {"ticks": process_of(stranger.pid)["ticks"] - 100},
        "began": {"began": holder["began"] - 60},
    }
    other = others.get(differs, {})
    written = json.dumps({**holder, **other}) if other else f"{host} {stranger.pid}"
    descriptor = os.open(tmp_path / holding.NAME, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, written.encode())
        with pytest.raises(TrialError, match="still written"), holding.held(tmp_path):
            pass
        assert stranger.poll() is None
    finally:
        os.close(descriptor)
        stranger.kill()
        stranger.wait()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="a system that tells no other clock")
def test_process_is_known_when_the_clock_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder of a lease on this machine would look dead after a step of the wall clock, and two drivers would write one run."""
    identity = json.loads(json.dumps(this_process()))
    real = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: real(process) + 3600)
    found = running(identity)
    assert found is not None
    assert found.pid == os.getpid()
    del identity["ticks"]
    assert running(identity) is None
    monkeypatch.undo()
    assert running(identity) is not None, "a record of an older release"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="a system that tells no other clock")
def test_name_of_a_process_is_not_taken_for_its_numbers(tmp_path: Path) -> None:
    """Names may hold spaces and parentheses: another field would be read, and change while the process runs."""
    program = Path(shutil.copy(shutil.which("sleep") or "", tmp_path / "a) R 1 (b"))
    process = subprocess.Popen([program, "60"])
    try:
        identity = process_of(process.pid)
        since_boot = identity["ticks"] / os.sysconf("SC_CLK_TCK")
        assert since_boot + psutil.boot_time() == pytest.approx(identity["began"], abs=2)
        assert running(identity) is not None
    finally:
        process.kill()
        process.wait()
    assert running(identity) is None


def test_own_process_is_never_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that asks for a directory it holds already would kill itself."""
    monkeypatch.setattr(holding, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(holding, "HOLD_SECONDS", 0.5)
    began = time.monotonic()
    with holding.held(tmp_path), pytest.raises(TrialError, match="still written"), holding.held(tmp_path):
        pass
    assert time.monotonic() - began < 5


def test_directory_is_free_after_use(tmp_path: Path) -> None:
    """A lock that outlived its use would block every resume."""
    for _ in range(2):
        with holding.held(tmp_path / "trial"):
            assert (tmp_path / "trial").is_dir()
