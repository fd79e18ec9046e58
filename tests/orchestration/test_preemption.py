"""Processes are told to end by SIGTERM: trials save where they stand, nothing fails, and the campaign ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fakes
import psutil
import pytest

from raydistill.orchestration.rundir import open_run

pytestmark = pytest.mark.ray
HERE = Path(__file__).parent
BACK_ENDS: dict[str, dict[str, Any]] = {
    "inline": {"backend": "inline", "concurrent_trials": 1, "max_failures": 0},
    "train": {"backend": "train", "workers_per_trial": 2, "max_failures": 0},
}


def endings(root: Path) -> list[tuple[int, float]]:
    """Number of workers and moment of every time a trial was told to end."""
    lines = [line.split() for path in root.glob(f"grades/*/trials/*/{fakes.ENDED}") for line in path.open()]
    return sorted(((int(size), float(moment)) for size, moment in lines), key=lambda one: one[1])


def process_of(root: Path, rank: int) -> int | None:
    """The process of a worker of the trial that runs."""
    for path in root.glob(f"grades/*/trials/*/pid-{rank}"):
        said = path.read_text()
        if said and psutil.pid_exists(int(said)):
            return int(said)
    return None


def workers_of(root: Path, size: int, but: Sequence[int] = ()) -> list[int]:
    """The processes of all workers of the trial that runs, by rank, none of which are among others; empty until all are there."""
    found = [process_of(root, rank) for rank in range(size)]
    return [one for one in found if one] if not {None, *but} & set(found) else []


def wait_for(condition: Callable[[], Any], driver: subprocess.Popen[str], seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert driver.poll() is None, driver.stderr and driver.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a driver of a teacher and a grade, whose trials do what `control` says: `start("inline", seconds=600)`."""
    started: list[subprocess.Popen[str]] = []

    def drive(back_end: str, **settings: Any) -> subprocess.Popen[str]:
        file = tmp_path / "config.json"
        file.write_text(fakes.campaign(grades=[{"layers": 6}], resources=BACK_ENDS[back_end]).model_dump_json())
        fakes.control(tmp_path / "run", **settings)
        command = [sys.executable, str(HERE / "drive.py"), str(tmp_path / "run"), str(file)]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return started[0]

    yield drive
    for driver in started:
        driver.kill()


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_trial_that_is_told_to_end_saves_within_five_seconds_and_goes_on(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, back_end: str
) -> None:
    """An epoch of hours is lost when a machine is wanted back, or a job stopped; or the trial counts as failed; or processes stay behind.

    First one worker's process is told, then the driver.
    """
    root, driver = tmp_path / "run", start(back_end, seconds=600)
    count = 1 if back_end == "inline" else 2
    workers = wait_for(lambda: workers_of(root, count), driver)
    time.sleep(1)
    began = time.time()
    os.kill(workers[-1], signal.SIGTERM)
    wait_for(lambda: endings(root), driver)
    wait_for(lambda: workers_of(root, count, but=workers), driver)
    time.sleep(2)
    family, told = psutil.Process(driver.pid).children(recursive=True), time.time()
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(200) == 143
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive
    (size, first), (_, second) = endings(root)
    assert size == count
    assert first - began < 5
    assert second - told < 5
    assert [one.status for one in open_run(root).trials.values()] == ["running"]


def test_trial_is_saved_whichever_worker_is_told_and_whatever_it_is_at(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """A machine of the second worker is wanted back during a validation, in which workers do not hear of each other, and the epoch is lost with it."""
    root, driver = tmp_path / "run", start("train", apart=True)
    workers = wait_for(lambda: workers_of(root, 2), driver)
    time.sleep(1)
    os.kill(workers[1], signal.SIGTERM)
    wait_for(lambda: endings(root), driver)
    wait_for(lambda: workers_of(root, 2, but=workers), driver)
    [(size, _)] = endings(root)
    assert size == 2
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(200) == 143
    assert [one.status for one in open_run(root).trials.values()] == ["running"]


def test_deaf_trial_does_not_outlive_a_driver_that_was_killed(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """A trial in a long call, which no signal but SIGKILL ends, would train for nobody, and hold its directory against its successor."""
    driver = start("inline", seconds=600, deaf=True)
    wait_for(lambda: process_of(tmp_path / "run", 0), driver)
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not [one.name() for one in alive]
