"""The cluster that `raydistill run` starts for itself, and the trials on it: who may talk to them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

psutil = pytest.importorskip("psutil")
pytest.importorskip("grpc")
intruder = pytest.importorskip("intruder")
pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]

DRIVER = """
import sys
import ray
from raydistill.orchestration.cluster import connected

class Waiting:
    def pid(self):
        return 1

with connected(num_cpus=1):
    actor = ray.remote(Waiting).remote()
    print("ready", ray.get(actor.pid.remote()), flush=True)
    sys.stdin.read()
"""

CAMPAIGN = """
import sys
from pathlib import Path
import fakes
from raydistill.orchestration.campaign import Campaign

root = Path(sys.argv[1])
fakes.control(root, seconds=600)
config = fakes.campaign(grades=[{"layers": 6}], resources={"backend": "train", "workers_per_trial": 2})
Campaign(config, root, fakes.workshop(), num_cpus=2).run()
"""


def environment() -> dict[str, str]:
    """Of a driver that knows of no cluster."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**plain, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/orchestration")])}


def family(driver: int) -> list[int]:
    """A driver and everything it has started."""
    return [driver, *(one.pid for one in psutil.Process(driver).children(recursive=True))]


@pytest.fixture(scope="module")
def processes() -> Iterator[list[int]]:
    """A driver, its cluster and a worker of it."""
    command, pipe = [sys.executable, "-c", DRIVER], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment()) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        try:
            assert driver.stdout.readline() == "ready 1\n"
            yield family(driver.pid)
        finally:
            driver.stdin.close()


@pytest.fixture(scope="module")
def addresses(processes: list[int]) -> set[tuple[str, int]]:
    """Every address on which they take connections."""
    found: set[tuple[str, int]] = intruder.listening(processes)
    return found


def test_no_process_is_started_that_nobody_asks(processes: list[int]) -> None:
    """Each imports for a second, and takes something from workers that have the machine's last core."""
    commands = {Path(word).name for pid in processes for word in psutil.Process(pid).cmdline()}
    assert {"gcs_server", "raylet"} <= commands
    assert not {"dashboard.py", "log_monitor.py", "monitor.py"} & commands


def test_nobody_without_the_token_is_told_anything(addresses: set[tuple[str, int]]) -> None:
    """One port that answers everybody is enough to run code as this user; one on an outer address, to do so from a café."""
    assert len(addresses) > 3
    assert intruder.breaches(addresses) == []
    told = [code for address in addresses for code in intruder.calls(address, intruder.WRONG).values()]
    assert "UNAUTHENTICATED" in told


@pytest.fixture
def training(tmp_path: Path) -> Iterator[tuple[int, list[int]]]:
    """A driver, and the two workers of the trial that it trains."""
    command = [sys.executable, "-c", CAMPAIGN, str(tmp_path / "run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as driver:
        try:
            deadline = time.monotonic() + 240
            found: list[Path] = []
            while len(found) < 2 or not all(path.read_text() for path in found):
                found = sorted(tmp_path.glob("run/grades/*/trials/*/pid-*"))
                assert driver.poll() is None, driver.stderr and driver.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield driver.pid, [int(path.read_text()) for path in found]
        finally:
            driver.kill()


def test_workers_that_exchange_tensors_listen_to_this_machine_alone(training: tuple[int, list[int]]) -> None:
    """torch asks for no token, and its store binds to every interface: anybody in the café could disturb what is trained."""
    driver, workers = training
    first, second = (intruder.listening([pid]) for pid in workers)
    assert len(first) > len(second) > 1, "beside Ray's port, each has Gloo's, and the first one the store's"
    assert [one for one in intruder.listening(family(driver)) if one[0] not in intruder.LOOPBACK] == []
    assert [said for one in first | second if not (said := intruder.raw(one)).startswith(intruder.FRAME) and said] == []
