"""cluster/local.sh against real Ray processes: what it starts, who may reach it, and that stopping it ends all of it and nothing else."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

psutil = pytest.importorskip("psutil")
intruder = pytest.importorskip("intruder")
SCRIPT = Path(__file__).parents[2] / "cluster/local.sh"

pytestmark = [pytest.mark.ray, pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")]


@dataclass(frozen=True)
class Started:
    """A cluster: where its state lies, what `start` printed, and its processes' common folder."""

    folder: Path
    exported: dict[str, str]
    temporary: str

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(SCRIPT), *arguments, "--dir", str(self.folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), timeout=300)

    def processes(self) -> list[int]:
        from raydistill.orchestration.reaper import writers

        return writers(self.temporary)


def environment() -> dict[str, str]:
    """A shell that knows of no cluster."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**plain, "PYTHON": sys.executable}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """A head and a worker of one CPU each."""
    folder = tmp_path_factory.mktemp("state")
    cluster = Started(folder, {}, "")
    try:
        done = cluster.call("start", "--workers", "1", "--cpus", "1")
        assert done.returncode == 0, done.stderr
        exported = dict(re.findall(r"^export (\w+)='?(.*?)'?$", done.stdout, flags=re.MULTILINE))
        yield Started(folder, exported, (folder / "temporary").read_text().strip())
    finally:
        cluster.call("stop")


def test_driver_sees_both_machines_with_what_start_printed(started: Started) -> None:
    """`eval "$(cluster/local.sh start)"` has to be all that a shell needs."""
    code = "import ray; ray.init(); print(len(ray.nodes()), ray.cluster_resources()['CPU'])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**environment(), **started.exported}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "2.0"]


def test_campaigns_need_no_more_than_address_and_token(started: Started) -> None:
    """Ray looks for a head at 127.0.0.1 at this machine's outer address, where it does not listen."""
    code = "import ray\nfrom raydistill.orchestration.cluster import *\nwith connected(): print(ray.cluster_resources()['CPU'])"
    needed = {name: value for name, value in started.exported.items() if name.startswith(("RAY_ADDRESS", "RAY_AUTH"))}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**environment(), **needed})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2.0"]


def test_token_is_readable_by_its_owner_alone(started: Started) -> None:
    """Ray's own token files are readable by everybody on the machine."""
    path = Path(started.exported["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text().strip()) == 64
    assert stat.S_IMODE(Path(started.temporary).stat().st_mode) == 0o700


def test_nobody_without_the_token_is_told_anything(started: Started) -> None:
    """One port that answers everybody is enough to run code, or to read what a campaign trains on; a laptop in a café must not offer its CPUs."""
    pytest.importorskip("grpc")
    addresses = intruder.listening(started.processes())
    assert len(addresses) > 5
    assert intruder.breaches(addresses) == []
    assert len(addresses & intruder.listening(started.processes())) > 5, (
        "a cluster that has ended tells nobody anything"
    )


def test_the_token_opens_what_is_closed_to_others(started: Started) -> None:
    """Requests that are refused because nobody understands them would pass for a closed door."""
    pytest.importorskip("grpc")
    token = Path(started.exported["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    dashboard, head = (("127.0.0.1", int(started.exported[name].rpartition(":")[2])) for name in names)
    assert intruder.pages(dashboard, token)["/api/version"][0] == 200
    assert intruder.pages(dashboard, intruder.WRONG)["/api/version"][0] == 403
    question = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
    assert intruder.calls(head, token)[question] == "OK"
    assert intruder.calls(head, intruder.WRONG)[question] == "UNAUTHENTICATED"
    commands = list[str]()
    for pid in started.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            commands.append(" ".join(psutil.Process(pid).cmdline()))
    [port] = [found[1] for one in commands if (found := re.search(r"ray\.util\.client\.server .*--port=(\d+)", one))]
    assert intruder.calls(("127.0.0.1", int(port)), intruder.WRONG)[intruder.CLIENT] == "UNAUTHENTICATED"


def test_second_start_is_refused(started: Started) -> None:
    """Two clusters of one folder, and `stop` knows of the second alone."""
    done = started.call("start")
    assert done.returncode == 2
    assert "a cluster is running already" in done.stderr


def test_status_tells_the_processes_and_the_environment(started: Started) -> None:
    """A second shell has to find the way to the cluster."""
    done = started.call("status")
    assert done.returncode == 0
    assert re.search(r"^head: process \d+ runs$", done.stderr, flags=re.MULTILINE)
    assert re.search(r"^worker1: process \d+ runs$", done.stderr, flags=re.MULTILINE)
    assert f"export RAY_ADDRESS={started.exported['RAY_ADDRESS']}" in done.stdout


def test_worker_that_is_added_belongs_to_the_cluster(started: Started) -> None:
    """A worker nobody counts is not ended by `stop`; one of another cluster offers its CPUs to strangers."""
    code = "import ray; ray.init(); print(len([one for one in ray.nodes() if one['Alive']]), ray.cluster_resources()['CPU'])"
    done = started.call("add")
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-c", code]
    told = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**environment(), **started.exported}
    )
    assert told.stdout.split() == ["3", "3.0"], told.stderr
    assert re.search(r"^worker2: process \d+ runs$", started.call("status").stderr, flags=re.MULTILINE)


def runs(process: Any) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_stop_ends_all_of_it_and_nothing_else(started: Started) -> None:
    """A raylet that stays holds the memory; a reader of its logs, or another Ray, is none of its business."""
    before = list[Any]()
    for pid in started.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            before.append(psutil.Process(pid))
    assert len(before) > 5
    log = next(Path(started.temporary).rglob("gcs_server.out"))
    with subprocess.Popen(["tail", "-f", str(log)], stdout=subprocess.DEVNULL) as reader:
        done = started.call("stop")
        assert done.returncode == 0, done.stderr
        assert reader.poll() is None
        reader.kill()
    # Some are killed at last, and need a moment.
    deadline = time.monotonic() + 60
    while any(runs(one) for one in before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [one for one in before if runs(one)] == []
    assert not Path(started.temporary).exists()
    assert list(started.folder.iterdir()) == []
    assert started.call("status").returncode == 3
