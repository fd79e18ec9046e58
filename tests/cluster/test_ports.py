"""The cluster that `raydistill run` starts for itself: who may talk to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

psutil = pytest.importorskip("psutil")
pytest.importorskip("grpc")
intruder = pytest.importorskip("intruder")
pytestmark = pytest.mark.ray

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


@pytest.fixture(scope="module")
def addresses() -> Iterator[set[tuple[str, int]]]:
    """Every address on which a driver, its cluster and a worker of it take connections."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", DRIVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=plain) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        try:
            assert driver.stdout.readline() == "ready 1\n"
            family = [driver.pid, *(one.pid for one in psutil.Process(driver.pid).children(recursive=True))]
            yield intruder.listening(family)
        finally:
            driver.stdin.close()


def test_nobody_without_the_token_is_told_anything(addresses: set[tuple[str, int]]) -> None:
    """One port that answers everybody is enough to run code as this user; one on an outer address, to do so from a café."""
    assert len(addresses) > 3
    assert intruder.breaches(addresses) == []
    told = [code for address in addresses for code in intruder.calls(address, intruder.WRONG).values()]
    assert "UNAUTHENTICATED" in told
