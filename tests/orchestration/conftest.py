"""The fake workshop must be importable by name here and in every worker process of Ray's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
ROOT = str(Path(__file__).parents[2])
sys.path.insert(0, HERE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder import Ray."""
    for item in items:
        if Path(HERE) in item.path.parents:
            item.add_marker("needs_ray")


@pytest.fixture(scope="session", autouse=True)
def _importable() -> Iterator[None]:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([ROOT, HERE, *([before] if before else [])])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # The S3 of the tests takes any; the cluster's processes have the variables of the process that starts it.
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_EC2_METADATA_DISABLED="true")
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def s3(_importable: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """An S3 on 127.0.0.1 with one bucket: `s3("runs/first")` is a URI in it."""
    pytest.importorskip("moto", reason="the S3 of the tests")
    from pyarrow import fs

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # It imports a great deal; beside other tests that has taken more than a minute.
    deadline = time.monotonic() + 300
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert server.poll() is None, "the S3 of the tests has ended"
        assert time.monotonic() < deadline, "the S3 of the tests does not answer"
        time.sleep(0.1)
    owner = fs.S3FileSystem(
        endpoint_override=f"127.0.0.1:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
    )
    owner.create_dir("bucket")
    yield lambda path: f"s3://bucket/{path}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    server.terminate()
    server.wait(30)


@pytest.fixture(scope="session")
def cluster(_importable: None) -> Iterator[None]:
    """One Ray cluster of two CPUs for all tests that do not kill their driver."""
    from raydistill.orchestration.cluster import connected

    with connected(num_cpus=2):
        yield
