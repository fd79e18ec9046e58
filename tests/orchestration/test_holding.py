"""One writer per trial directory."""

from __future__ import annotations

import fcntl
import json
import os
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
from raydistill.orchestration.processes import running, this_process

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


@pytest.mark.parametrize("differs", ["machine", "began", "form"])
def test_process_of_the_same_number_is_not_killed_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, differs: str
) -> None:
    """On a file server the holder may be process 37 of a clone or a container of the same host name: a stranger's process would be killed here."""
    monkeypatch.setattr(holding, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(holding, "HOLD_SECONDS", 0.5)
    stranger = subprocess.Popen(["sleep", "60"])
    holder: dict[str, Any] = {
        **this_process(),
        "pid": stranger.pid,
        "began": psutil.Process(stranger.pid).create_time(),
    }
    assert running(holder) is not None, "or it would be left alone for want of a holder"
    host = socket.gethostname()
    other = {"machine": {"machine": f"{host} 1234 pid:[1]"}, "began": {"began": holder["began"] - 60}}.get(differs, {})
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
