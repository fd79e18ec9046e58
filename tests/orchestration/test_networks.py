"""A machine that is cut off from the head of its cluster, by a real link that goes down between two networks of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import fakes
import psutil
import pytest

from raydistill.orchestration.processes import titled

HERE = Path(__file__).parent
HEAD, WORKER = "10.83.0.1", "10.83.0.2"
TRIAL = "ray::ResourceTrainable"
SECONDS = 240
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None or not os.environ.get("RAYDISTILL_KILLS"),
        reason="RAYDISTILL_KILLS is not set, or this user may not lay networks",
    ),
]


@dataclass
class Networks:
    """Two, with a link between them, and the processes that were started in each."""

    folder: Path
    names: tuple[str, str]
    environment: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, number: int, *command: str) -> subprocess.Popen[bytes]:
        inside = ["ip", "netns", "exec", self.names[number], *command]
        self.started.append(subprocess.Popen(inside, env=self.environment))
        return self.started[-1]

    def processes(self, number: int) -> list[psutil.Process]:
        told = subprocess.run(["ip", "netns", "pids", self.names[number]], capture_output=True, text=True, check=False)
        found = []
        for pid in told.stdout.split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def cut(self) -> None:
        """At the head's end: on the machine nothing says that there is no way any more, and what it sends is lost."""
        link(f"-n {self.names[0]} link set to-1 down")

    def end(self) -> None:
        deadline = time.monotonic() + 30
        while (left := self.processes(0) + self.processes(1)) and time.monotonic() < deadline:
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.1)
        for started in self.started:
            with suppress(subprocess.TimeoutExpired):
                started.wait(10)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def link(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


@pytest.fixture
def networks(tmp_path: Path) -> Iterator[Networks]:
    folder = Path(tempfile.mkdtemp(prefix="rd-", dir="/tmp"))
    (folder / "token").write_text("0123456789abcdef" * 4)
    names = (f"rd{os.getpid()}a", f"rd{os.getpid()}b")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    door = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_TMPDIR": str(folder)}
    patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": "60", "OMP_NUM_THREADS": "1"}
    found = Networks(folder, names, {**kept, **door, **patience, "PYTHONPATH": str(HERE)})
    try:
        try:
            for name in names:
                link(f"netns add {name}")
        except subprocess.CalledProcessError:
            pytest.skip("this user may not lay networks, as in a container")
        link(f"link add to-1 netns {names[0]} type veth peer name to-0 netns {names[1]}")
        for name, device, address in ((names[0], "to-1", HEAD), (names[1], "to-0", WORKER)):
            link(f"-n {name} addr add {address}/24 dev {device}")
            for one in ("lo", device):
                link(f"-n {name} link set {one} up")
        yield found
    finally:
        found.end()


def test_trial_that_is_cut_off_from_the_head_saves_and_ends(networks: Networks, tmp_path: Path) -> None:
    """Ray waits for minutes, in which it holds a GPU and sends to a bucket what nobody asks for any more."""
    ray = str(Path(sys.executable).with_name("ray"))
    address, store = f"{HEAD}:6399", "--object-store-memory=100000000"
    head = ["--head", f"--node-ip-address={HEAD}", "--port=6399", "--num-cpus=0", "--include-dashboard=false", store]
    assert networks.start(0, ray, "start", *head).wait(120) == 0
    joins = [f"--address={address}", f"--node-ip-address={WORKER}", "--num-cpus=1", store]
    assert networks.start(1, ray, "start", *joins).wait(120) == 0
    root, file = tmp_path / "run", tmp_path / "config.json"
    config = fakes.campaign(resources={"backend": "inline"}, training={"epochs": 400, "batch_size": 4})
    file.write_text(config.model_dump_json())
    # In the middle of an epoch: after one it waits for an answer to its report, and has nothing left to save.
    fakes.control(root, seconds=100.0)
    networks.environment["RAY_ADDRESS"] = address
    driver = networks.start(0, sys.executable, str(HERE / "drive.py"), str(root), str(file))
    deadline = time.monotonic() + SECONDS
    while not list(root.glob("grades/*/trials/*/pid-0")):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    [trial] = titled(networks.processes(1), TRIAL)
    networks.cut()
    began = time.monotonic()
    with suppress(psutil.NoSuchProcess):
        trial.wait(60)
    took = time.monotonic() - began
    # Half a minute may be a network that is broken.
    assert 30 < took < 48
    assert list(root.glob(f"grades/*/trials/*/{fakes.ENDED}")), "it was told, and saved"
    assert driver.poll() is None, "whoever has the head waits for another machine"
