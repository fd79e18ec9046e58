"""Processes of a campaign die by SIGKILL, and it ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakes
import psutil
import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.orchestration.campaign import Campaign
from raydistill.orchestration.processes import titled
from raydistill.orchestration.rundir import open_run
from raydistill.planning.state import CampaignState

pytestmark = pytest.mark.ray
HERE = Path(__file__).parent
EPOCHS = {"epochs": 4, "batch_size": 4}
GRADES = [{"layers": 6, "mask_ratio": {"choice": [0.1, 0.2]}}]


class Killer:
    """Kills one process per entry of a plan, as soon as the grade it names has a trial with a report.

    Args:
        root: the run directory.
        plan: grade and victim: a worker's rank, or the start of a process title.
        reports: reports that the trial must have, at least.
    """

    def __init__(self, root: Path, plan: list[tuple[int, int | str]], reports: int = 1) -> None:
        self.root = root
        self.plan = list(plan)
        self.reports = reports

    def __call__(self, state: CampaignState) -> None:
        if not self.plan:
            return
        grade, victim = self.plan[0]
        running = [
            one for one in state.of("main", grade) if one.status == "running" and len(one.reports) >= self.reports
        ]
        if running:
            folder = self.root / "grades" / state.grades[grade]
            directory = folder / "trials" / running[0].identity
            pid = int((directory / f"pid-{victim}").read_text()) if isinstance(victim, int) else newest(victim)
            os.kill(pid, signal.SIGKILL)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / fakes.KILLED).touch()
            self.plan.pop(0)


def newest(title: str) -> int:
    """The newest process below this one with a title: one of an earlier campaign may not have ended yet, and one that died may not have been started again."""
    deadline = time.monotonic() + 30
    while not (found := list(titled(psutil.Process().children(recursive=True), title))):
        assert time.monotonic() < deadline, f"no {title} among {list(titles())}"
        time.sleep(0.1)
    return max(found, key=psutil.Process.create_time).pid


def with_torch(title: str) -> set[bool]:
    """Whether the processes below this one with a title have loaded it. A title that is just being changed is none for a moment."""
    seen = set[bool]()
    deadline = time.monotonic() + 10
    while not seen and time.monotonic() < deadline:
        for process in titled(psutil.Process().children(recursive=True), title):
            with contextlib.suppress(psutil.NoSuchProcess):
                seen.add(any("libtorch" in one.path for one in process.memory_maps()))
    return seen


def titles() -> Iterator[str]:
    """Of all processes below this one."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            yield f"{process.pid} {process.status()} {' '.join(process.cmdline())[:60].strip()}"


def check(state: CampaignState, config: CampaignConfig, tmp_path: Path, kills: int) -> None:
    promoted = {place: promotion.digest for place, promotion in state.promotions.items()}
    assert promoted == fakes.expected(config, tmp_path / "twin")
    epochs = Counter(fakes.trained(tmp_path / "run"))
    assert sum(epochs.values()) - len(epochs) <= kills
    assert all(one.status == "finished" and len(one.reports) == 4 for one in state.trials.values())


def test_campaign_survives_the_death_of_any_of_its_processes(cluster: None, tmp_path: Path) -> None:
    """A trial, the coordinator or a search that dies would end the campaign, lose a report, or train a finished trial again."""
    config = fakes.campaign(training=EPOCHS, resources={"backend": "inline", "concurrent_trials": 1})
    fakes.control(tmp_path / "run", until_killed={"0-teacher": 1, "1-layers6": 1, "2-layers3": 1})
    killer = Killer(tmp_path / "run", [(0, 0), (1, "ray::Coordinator"), (2, "ray::StudyRunner")])
    state = Campaign(config, tmp_path / "run", fakes.workshop()).run(observe=killer)
    assert not killer.plan
    check(state, config, tmp_path, kills=3)


def test_room_of_a_search_that_died_at_once_is_given_back(cluster: None, tmp_path: Path) -> None:
    """Its trial has told nobody yet which CPUs it has: the next one would wait for them for ever."""
    grades = [{"layers": 6}]
    config = fakes.campaign(training=EPOCHS, resources={"backend": "inline", "concurrent_trials": 1}, grades=grades)
    fakes.control(tmp_path / "run", until_killed={"0-teacher": 0})
    killer = Killer(tmp_path / "run", [(0, "ray::StudyRunner")], reports=0)
    state = Campaign(config, tmp_path / "run", fakes.workshop()).run(observe=killer)
    assert not killer.plan
    check(state, config, tmp_path, kills=1)


@pytest.mark.slow
def test_train_back_end_survives_the_death_of_a_worker_and_of_its_trial(cluster: None, tmp_path: Path) -> None:
    """A dead worker would end the trial; a dead trial would keep its workers' CPUs, and the next one would wait for ever."""
    resources = {"backend": "train", "workers_per_trial": 2}
    config = fakes.campaign(training=EPOCHS, resources=resources, grades=[{"layers": 6, "mask_ratio": 0.1}])
    fakes.control(tmp_path / "run", until_killed={"0-teacher": 1, "1-layers6": 1})
    killer = Killer(tmp_path / "run", [(0, 1), (1, "ray::ResourceTrainable")])
    torch: list[tuple[set[bool], set[bool]]] = []

    def observe(state: CampaignState) -> None:
        plan = len(killer.plan)
        seen = with_torch("ray::ResourceTrainable"), with_torch("ray::RayTrainWorker")
        killer(state)
        if len(killer.plan) < plan:
            torch.append(seen)

    state = Campaign(config, tmp_path / "run", fakes.workshop()).run(observe=observe)
    assert not killer.plan
    # It takes seconds to import, and a trial's own process only waits for its workers.
    assert torch == [({False}, {True})] * 2
    check(state, config, tmp_path, kills=4)


def drive(root: Path, config: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "drive.py"), str(root), str(config), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_resumed_run_promotes_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    """After a crash of the driver finished trials would be run again, processes stay behind, or the ladder go on from other checkpoints."""
    config = fakes.campaign(training=EPOCHS, resources={"backend": "inline"}, grades=GRADES)
    root, file = tmp_path / "run", tmp_path / "config.json"
    file.write_text(config.model_dump_json())
    fakes.control(root, seconds=0.2)
    options: list[str] = []
    for end, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        moment = len(fakes.trained(root)) + random.randint(1, 4)
        driver = drive(root, file, *options)
        wait_for(lambda moment=moment: len(fakes.trained(root)) >= moment, driver)  # type: ignore[misc]
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(end)
        assert driver.wait(200) == code
        _, alive = psutil.wait_procs(family, timeout=15)
        assert not alive, f"after {moment} epochs: {[one.name() for one in alive]}"
        options = ["--resume"]
    finished = {one.identity for one in open_run(root).trials.values() if one.status == "finished"}
    before = Counter(one for one in fakes.trained(root) if one[1] in finished)
    last = drive(root, file, "--resume")
    assert last.wait(240) == 0, last.stderr and last.stderr.read()
    assert before == Counter(one for one in fakes.trained(root) if one[1] in finished)
    check(open_run(root), config, tmp_path, kills=4)


def test_second_driver_is_refused(tmp_path: Path) -> None:
    """Two drivers of one run would write one ledger."""
    config = fakes.campaign(training=EPOCHS, resources={"backend": "inline"})
    root, file = tmp_path / "run", tmp_path / "config.json"
    file.write_text(config.model_dump_json())
    fakes.control(root, seconds=5)
    first = drive(root, file)
    try:
        wait_for(lambda: any("trial_begun" in path.read_text() for path in (root / "ledger").glob("*.json")), first)
        second = drive(root, file, "--resume")
        _, said = second.communicate(timeout=200)
        assert second.returncode == 2
        assert json.dumps(f"in use by process {first.pid}")[1:-1] in said
    finally:
        first.send_signal(signal.SIGINT)
        assert first.wait(200) in (130, -signal.SIGINT)
