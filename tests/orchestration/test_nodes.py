"""Campaigns over several machines, of which some are lost, come back, or are added: `ray.cluster_utils.Cluster`, and real `ray start` processes.

By default one campaign that trains nothing, on machines that are added and lost. `RAYDISTILL_KILLS=10` trains a tiny encoder, loses a machine at ten
random moments on each kind of cluster, and loses a head.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fakes
import psutil
import pytest
import yaml

from raydistill.config.load import load_config
from raydistill.config.schema import CampaignConfig
from raydistill.orchestration.processes import titled
from raydistill.orchestration.rundir import open_run
from raydistill.orchestration.workshop import standard_workshop
from raydistill.planning.state import CampaignState

pytestmark = pytest.mark.ray
HERE = Path(__file__).parent
LOCAL = HERE.parents[1] / "cluster/local.sh"
MOMENTS = int(os.environ.get("RAYDISTILL_KILLS", "0"))
KINDS = ["cluster_utils", "ray start"]
SECONDS = 240
Machine = tuple[int, ...]
TRIAL = "ray::ResourceTrainable"
# The same as always, sooner: Ray takes fifteen seconds to give up a machine that has gone.
IMPATIENCE = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}


@dataclass
class Nodes:
    """Machines, each by the processes that all of its own descend from; the head is the first."""

    environment: dict[str, str]
    machines: list[Machine]
    add: Callable[[], Machine]

    def family(self, machine: Machine) -> list[psutil.Process]:
        family: list[psutil.Process] = []
        for root in machine:
            with suppress(psutil.NoSuchProcess):
                family += [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
        return family

    def titled(self, title: str, machines: list[Machine]) -> list[tuple[Machine, psutil.Process]]:
        """Processes with this title, and their machines."""
        return [(machine, process) for machine in machines for process in titled(self.family(machine), title)]

    def kill(self, machine: Machine) -> None:
        """Take the power from a machine: all of its processes end at once."""
        family = self.family(machine)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        deadline = time.monotonic() + 10
        while any(map(_is_alive, family)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.machines.remove(machine)


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def plain() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, **IMPATIENCE, "OMP_NUM_THREADS": "1"}


@contextmanager
def simulated(num_workers: int, head_cpus: int = 1) -> Iterator[Nodes]:
    """Machines of `ray.cluster_utils`, behind a token, on the loopback interface."""
    folder = Path(tempfile.mkdtemp(prefix="rd-", dir="/tmp"))
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    door = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    # Where it notes which cluster is the current one: not in the place of all others, which need not be there.
    (folder / "ray").mkdir()
    environment = {**plain(), **door, "RAY_TMPDIR": str(folder)}
    command = [sys.executable, str(HERE / "nodes.py"), str(folder / "r"), str(num_workers), str(head_cpus)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    family: list[psutil.Process] = []
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        told = process.stdout.readline

        def heard() -> Machine:
            line = told()
            assert line, "the cluster has ended"
            return tuple(map(int, line.split()))

        def add() -> Machine:
            process.stdin.write("add\n")
            process.stdin.flush()
            return heard()

        address = told().strip()
        machines = [heard() for _ in range(num_workers + 1)]
        family = psutil.Process(process.pid).children(recursive=True)
        yield Nodes({**plain(), **door, "RAY_ADDRESS": address}, machines, add)
    finally:
        family += psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate()
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def started(num_workers: int, folder: Path) -> Iterator[Nodes]:
    """Machines of real `ray start` processes, as cluster/local.sh starts them."""
    environment = {**plain(), "PYTHON": sys.executable}
    if subprocess.run([sys.executable, "-c", "import aiohttp"], capture_output=True, check=False).returncode:
        pytest.skip("Ray is installed without its dashboard")
    command = [str(LOCAL), "start", "--workers", str(num_workers), "--cpus", "1", "--dir", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        named = dict(re.findall(r"^export (\w+)='?(.*?)'?$", done.stdout, flags=re.MULTILINE))
        machines = [(int(line.split()[1]),) for line in (folder / "processes").read_text().splitlines()]

        def add() -> Machine:
            subprocess.run([str(LOCAL), "add", "--dir", str(folder)], check=True, capture_output=True, env=environment)
            return (int((folder / "processes").read_text().splitlines()[-1].split()[1]),)

        yield Nodes({**environment, **named}, machines, add)
    finally:
        subprocess.run([str(LOCAL), "stop", "--dir", str(folder)], check=True, env=environment, capture_output=True)


def state_of(root: Path) -> CampaignState:
    return open_run(root) if (root / "ledger").exists() else CampaignState()


def reports(root: Path) -> int:
    return sum(len(trial.reports) for trial in state_of(root).trials.values())


def promoted(root: Path) -> dict[tuple[str, int], str]:
    return {place: promotion.digest for place, promotion in open_run(root).promotions.items()}


def wait_for(condition: Callable[[], Any], driver: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert driver.poll() is None, driver.stderr and driver.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def ended(driver: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = driver.communicate(timeout=SECONDS)
    return driver.returncode, said


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory, dataset_folder: Path, encoder_folder: Callable[..., Path]) -> Path:
    """A teacher and three grades, with dropout, masks and checkpoints inside epochs."""
    content = {
        "data": {"path": str(dataset_folder), "max_tokens": 32},
        "encoder": {"name": str(encoder_folder("bert", dropout=0.1))},
        "grades": [
            {"layers": 3, "mask_ratio": {"choice": [0.0, 0.2]}},
            {"layers": 2, "mask_ratio": {"choice": [0.1, 0.2]}},
            {"layers": 1, "mask_ratio": 0.1},
        ],
        "search": {"algorithm": "grid"},
        "training": {
            "batch_size": 6,
            "epochs": 6,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "checkpoint_steps": 2,
        },
        "resources": {"cpus_per_worker": 1},
    }
    path = tmp_path_factory.mktemp("ladder") / "ladder.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def undisturbed(ladder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], str]:
    """What it promotes when every trial is run to its end on one machine, without Ray."""
    return fakes.expected(load_config(ladder), tmp_path_factory.mktemp("undisturbed"), standard_workshop())


@pytest.fixture(scope="module", params=KINDS)
def cluster_of_three(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head and two machines, of one CPU each; what is lost is added again."""
    three = simulated(2) if request.param == "cluster_utils" else started(2, tmp_path_factory.mktemp("cluster"))
    with three as nodes:
        yield nodes


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_lost_machine_changes_no_promoted_byte(
    cluster_of_three: Nodes, ladder: Path, undisturbed: dict[tuple[str, int], str], tmp_path: Path, moment: int
) -> None:
    """A trial that is begun again elsewhere, with other masks or from other weights, would promote another model; or nothing goes on."""
    root, chance = tmp_path / "run", random.Random(moment)
    while len(cluster_of_three.machines) < 3:
        cluster_of_three.machines.append(cluster_of_three.add())
    command = [sys.executable, "-m", "raydistill", "run", str(ladder), "--run-dir", str(root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=cluster_of_three.environment) as driver:
        try:
            wanted = chance.randint(1, 24)
            wait_for(lambda: reports(root) >= wanted, driver)
            time.sleep(chance.uniform(0.0, 0.5))
            victim, _ = wait_for(lambda: cluster_of_three.titled(TRIAL, cluster_of_three.machines[1:]), driver)[0]
            cluster_of_three.kill(victim)
            killed_at = reports(root)
            code, said = ended(driver)
        finally:
            driver.kill()
    assert code == 0, said
    assert promoted(root) == undisturbed, f"lost after {killed_at} reports"
    assert all(trial.status == "finished" for trial in open_run(root).trials.values())


def drive(root: Path, config: Path, nodes: Nodes, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "drive.py"), str(root), str(config), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=nodes.environment)


@pytest.fixture
def faked(tmp_path: Path) -> tuple[CampaignConfig, Path]:
    """A teacher and a grade of three trials that train nothing, and its file."""
    grades = [{"layers": 6, "mask_ratio": {"choice": [0.0, 0.1, 0.15]}}]
    settings = {"search": {"algorithm": "grid"}, "training": {"epochs": 3, "batch_size": 4}}
    config = fakes.campaign(grades=grades, resources={"backend": "inline"}, **settings)
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json())
    return config, path


def running(root: Path) -> int:
    """Trials that are under way and have reported."""
    return sum(one.status == "running" and bool(one.reports) for one in state_of(root).of("main", 1))


def at_work(root: Path, nodes: Nodes) -> tuple[Machine, psutil.Process] | None:
    """A machine beside the head, and the trial of the grade that it trains."""
    pids = {path.read_text() for path in root.glob("grades/1-layers6/trials/*/pid-0")}
    there = nodes.titled(TRIAL, nodes.machines[1:])
    return next(((machine, trial) for machine, trial in there if str(trial.pid) in pids), None)


def test_trials_follow_the_machines_there_are(faked: tuple[CampaignConfig, Path], tmp_path: Path) -> None:
    """A campaign would end because no machine has joined yet; a machine that is added stay idle until the grade is over; a lost coordinator and then a lost
    machine end the campaign.
    """
    config, path = faked
    root = tmp_path / "run"
    # No trial of the grade ends before it is let: a machine takes as long to come as it takes.
    fakes.control(root, seconds=0.1, until={"1-layers6": "go"})
    go = root / "grades" / "go" / "trials" / "all"
    with simulated(0, head_cpus=0) as nodes, drive(root, path, nodes) as driver:
        try:
            assert driver.stderr is not None
            assert any("no room for a trial yet" in line for line in driver.stderr), "it ended"
            nodes.machines.append(nodes.add())
            wait_for(lambda: running(root) == 1, driver)
            nodes.machines.append(nodes.add())
            wait_for(lambda: running(root) == 2, driver)
            [(_, coordinator)] = nodes.titled("ray::Coordinator", nodes.machines)
            coordinator.kill()
            victim = wait_for(lambda: nodes.titled(TRIAL, nodes.machines[1:]), driver)[0][0]
            nodes.kill(victim)
            go.mkdir(parents=True)
            (go / fakes.TRAINED).touch()
            code, said = ended(driver)
        finally:
            driver.kill()
    assert code == 0, said
    assert promoted(root) == fakes.expected(config, tmp_path / "twin")


def test_machine_that_is_told_to_end_loses_nothing(tmp_path: Path) -> None:
    """A spot machine that is wanted back: `ray start --block` hears SIGTERM, and tells nobody; its trial trains on until it is killed, and counts as failed."""
    config = fakes.campaign(
        grades=[{"layers": 6, "mask_ratio": {"choice": [0.0, 0.1, 0.15]}}],
        search={"algorithm": "grid"},
        training={"epochs": 3, "batch_size": 4},
        resources={"backend": "inline", "max_failures": 0},
    )
    path, root = tmp_path / "config.json", tmp_path / "run"
    path.write_text(config.model_dump_json())
    fakes.control(root, seconds=5.0)
    with started(2, tmp_path / "cluster") as nodes, drive(root, path, nodes) as driver:
        try:
            machine, trial = wait_for(lambda: at_work(root, nodes), driver)
            began = time.time()
            os.kill(machine[0], signal.SIGTERM)
            ends = wait_for(lambda: list(root.glob(f"grades/1-layers6/trials/*/{fakes.ENDED}")), driver)
            code, said = ended(driver)
        finally:
            driver.kill()
    assert code == 0, said
    assert len(ends) == 1
    assert float(ends[0].read_text().split()[1]) - began < 15
    assert not _is_alive(trial)
    assert promoted(root) == fakes.expected(config, tmp_path / "twin")
    assert all(one.status == "finished" for one in open_run(root).trials.values())


@pytest.mark.skipif(not MOMENTS, reason="takes three minutes; RAYDISTILL_KILLS=1 runs it")
def test_workers_of_a_trial_follow_the_machines_there_are(tmp_path: Path) -> None:
    """A trial of two workers that waits for a machine which was lost; or goes on with one of them when there is room for both again."""
    config = fakes.campaign(
        grades=[{"layers": 6, "mask_ratio": 0.1}],
        training={"epochs": 4, "batch_size": 4},
        resources={"backend": "train", "workers_per_trial": {"min": 1, "max": 2}, "cpus_per_worker": 1},
    )
    path, root = tmp_path / "config.json", tmp_path / "run"
    path.write_text(config.model_dump_json())
    fakes.control(root, seconds=15.0)

    def pids() -> list[int]:
        """Of the workers of the teacher's trial that are there."""
        known = [int(path.read_text() or 0) for path in root.glob("grades/0-*/trials/*/pid-*")]
        return sorted(pid for pid in known if pid and psutil.pid_exists(pid))

    with simulated(2, head_cpus=0) as nodes, drive(root, path, nodes) as driver:
        try:
            first = wait_for(lambda: len(pids()) == 2 and pids(), driver)
            machine = next(
                one for one in nodes.machines[1:] if {process.pid for process in nodes.family(one)} & set(first)
            )
            nodes.kill(machine)
            [alone] = wait_for(lambda: len(pids()) == 1 and not set(pids()) & set(first) and pids(), driver)
            nodes.machines.append(nodes.add())
            ended_by = wait_for(lambda: list(root.glob(f"grades/0-*/trials/*/{fakes.ENDED}")), driver)
            assert ended_by[0].read_text().split()[0] == "1", (
                "it was not alone when it was told to make room for another"
            )
            wait_for(lambda: len(pids()) == 2 and alone not in pids(), driver)
            fakes.control(root, seconds=0.1)
            code, said = ended(driver)
        finally:
            driver.kill()
    assert code == 0, said
    assert promoted(root) == fakes.expected(config, tmp_path / "twin")
    assert all(one.status == "finished" for one in open_run(root).trials.values())


@pytest.mark.skipif(not MOMENTS, reason="takes a minute; RAYDISTILL_KILLS=1 runs it")
def test_lost_head_ends_the_campaign_with_a_way_back(faked: tuple[CampaignConfig, Path], tmp_path: Path) -> None:
    """A driver that waits for a cluster that is gone, or that Ray ends without a word; and a run that cannot be gone on with."""
    config, path = faked
    root = tmp_path / "run"
    fakes.control(root, seconds=1.0)
    with simulated(1, head_cpus=0) as nodes, drive(root, path, nodes) as driver:
        try:
            wait_for(lambda: reports(root) >= 4, driver)
            _, orphan = wait_for(lambda: at_work(root, nodes), driver)
            began = time.monotonic()
            nodes.kill(nodes.machines[0])
            while _is_alive(orphan):
                # Twelve, on a machine that has nothing else to do.
                assert time.monotonic() - began < 20
                time.sleep(0.1)
            code, said = ended(driver)
            assert time.monotonic() - began < 50
        finally:
            driver.kill()
    assert code == 5, said
    assert "--resume" in said
    finished = {key: one.reports for key, one in open_run(root).trials.items() if one.status == "finished"}
    with simulated(1) as nodes, drive(root, path, nodes, "--resume") as driver:
        try:
            assert ended(driver)[0] == 0
        finally:
            driver.kill()
    assert promoted(root) == fakes.expected(config, tmp_path / "twin")
    assert {key: open_run(root).trials[key].reports for key in finished} == finished
