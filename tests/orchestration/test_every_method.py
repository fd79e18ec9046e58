"""Methods as lineages of one campaign, on a real Ray cluster: in every schedule, with every layer map, on both back ends.

All of them in all ways take most of an hour, so `make test-methods` runs that, and `make test` one way and the methods least like the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydistill.config.load import parse_config
from raydistill.config.methods import METHOD_SECTIONS
from raydistill.orchestration.campaign import Campaign
from raydistill.planning.state import CampaignState
from raydistill.training.checkpoint import load_model

METHODS: list[dict[str, Any]] = [
    {"name": "none"},
    {"name": "logits"},
    {"name": "dkd"},
    {"name": "pkd"},
    {"name": "tinybert"},
    {"name": "distilbert"},
    {"name": "pmd"},
    {"name": "minilm"},
    {"name": "minilm", "variant": "minilmv2", "relation_heads": 8},
    {"name": "mgsr", "length": 3},
    {"name": "self-feature"},
    {"name": "boot", "examples": 18},
    {"name": "education", "stages": 2},
    {"name": "amd", "depths": [2]},
    {"name": "dq"},
    {"name": "homodistil", "width": 12, "end": 0.3},
    {"name": "reinforced", "warmup_ratio": 0},
    {"name": "combined", "parts": [{"name": "pmd"}, {"name": "minilm"}]},
]
WAYS = [
    ("sequential", "inline", "skip"),
    ("sequential", "train", "uniform"),
    ("pipelined", "inline", "first"),
    ("pipelined", "train", [0, 2]),
    ("independent", "inline", "last"),
    ("independent", "train", "skip"),
]


UNLIKE = {"self-feature", "boot", "education", "homodistil"}
"""No teacher, no triple, a student that grows, one that shrinks."""


def test_every_method_is_here() -> None:
    """A method that was never run beside a schedule, and a list that nobody added it to."""
    assert {method["name"] for method in METHODS} == set(METHOD_SECTIONS)


@pytest.mark.ray
@pytest.mark.timeout(1800)
@pytest.mark.skipif("RAYDISTILL_METHODS" not in os.environ, reason="takes most of an hour: make test-methods")
@pytest.mark.parametrize(("schedule", "backend", "layer_map"), WAYS)
def test_method_runs_in_every_way(
    run_methods: Callable[..., CampaignState], schedule: str, backend: str, layer_map: str | list[int]
) -> None:
    """A method that a schedule, a back end or a layer map leaves without its teacher, its shape or its end."""
    assert_complete(run_methods(METHODS, schedule, backend, layer_map), len(METHODS))


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_methods_unlike_the_others_run_under_ray_train(run_methods: Callable[..., CampaignState]) -> None:
    """A worker of Ray Train that cannot say what shape its student has, or what it is taught by."""
    unlike = [method for method in METHODS if method["name"] in UNLIKE]
    assert len(unlike) == len(UNLIKE)
    assert_complete(run_methods(unlike, "pipelined", "train", [0, 2]), len(unlike))


@pytest.fixture
def run_methods(
    cluster: None, dataset_folder: Path, encoder_folder: Callable[..., Path], tmp_path: Path
) -> Callable[..., CampaignState]:
    """A campaign of 4, 3 and 2 layers, its last grade by each of some methods."""

    def run(methods: list[dict[str, Any]], schedule: str, backend: str, layer_map: str | list[int]) -> CampaignState:
        content = {
            "data": {"path": str(dataset_folder), "max_tokens": 32},
            "encoder": {"name": str(encoder_folder("bert", dropout=0.0, layers=4))},
            "grades": [
                {"layers": 3, "init": "teacher", "method": {"name": "logits"}},
                {"layers": 2, "init": "teacher", "mask_ratio": 0.1, "layer_map": layer_map},
            ],
            "compare": {"methods": methods, "seeds": [0]},
            "schedule": {"name": schedule},
            "training": {"epochs": 4, "batch_size": 7, "precision": "fp32", "learning_rate": 1e-3},
            "resources": {"backend": backend},
        }
        return Campaign(parse_config(content), tmp_path / "run").run()

    return run


def assert_complete(state: CampaignState, methods: int) -> None:
    assert state.complete
    assert [record.reason for record in state.trials.values() if record.status == "failed"] == []
    students = [one for (_, grade), one in state.promotions.items() if grade == 2]
    assert len(students) == methods
    assert {load_model(one.checkpoint).num_layers for one in students} == {2}
