"""The fake workshop must be importable by name here and in every worker process of Ray's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""
"""An S3 on a port that the system gives, which it tells, until its standard input is closed."""
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

    pipe = subprocess.PIPE
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    assert port, "the S3 of the tests has ended"
    owner = fs.S3FileSystem(
        endpoint_override=f"127.0.0.1:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
    )
    owner.create_dir("bucket")
    yield lambda path: f"s3://bucket/{path}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    server.stdin.close()
    server.wait(60)


@pytest.fixture(scope="session")
def cluster(_importable: None) -> Iterator[None]:
    """One Ray cluster of two CPUs for all tests that do not kill their driver."""
    from raydistill.orchestration.cluster import connected

    with connected(num_cpus=2):
        yield
