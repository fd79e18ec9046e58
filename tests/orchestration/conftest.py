"""The fake workshop must be importable by name here and in every worker process of Ray's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
ROOT = str(Path(__file__).parents[2])
sys.path.insert(0, HERE)


@pytest.fixture(scope="session", autouse=True)
def _importable() -> Iterator[None]:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([ROOT, HERE, *([before] if before else [])])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def cluster(_importable: None) -> Iterator[None]:
    """One Ray cluster of two CPUs for all tests that do not kill their driver."""
    from raydistill.orchestration.cluster import connected

    with connected(num_cpus=2):
        yield
