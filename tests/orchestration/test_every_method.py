"""Every method as a lineage of one campaign, on a real Ray cluster: in every schedule, with every layer map, on both back ends.

It takes minutes for each, so it is run by hand: RAYDISTILL_METHODS=1 pytest tests/orchestration/test_every_method.py.
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
from raydistill.training.checkpoint import load_model

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(1800),
    pytest.mark.skipif("RAYDISTILL_METHODS" not in os.environ, reason="takes minutes; RAYDISTILL_METHODS=1 runs it"),
]

METHODS: list[dict[str, Any]] = [
    {"name": "none"},
    {"name": "logits"},
    {"name": "dkd"},
    {"name": "pkd"},
    {"name": "tinybert"},
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


@pytest.mark.parametrize(("schedule", "backend", "layer_map"), WAYS)
def test_method_runs_in_every_way(
    cluster: None,
    dataset_folder: Path,
    encoder_folder: Callable[..., Path],
    tmp_path: Path,
    schedule: str,
    backend: str,
    layer_map: str | list[int],
) -> None:
    """A method that a schedule, a back end or a layer map leaves without its teacher, its shape or its end."""
    assert {method["name"] for method in METHODS} == set(METHOD_SECTIONS)
    content = {
        "data": {"path": str(dataset_folder), "max_tokens": 32},
        "encoder": {"name": str(encoder_folder("bert", dropout=0.0, layers=4))},
        "grades": [
            {"layers": 3, "init": "teacher", "method": {"name": "logits"}},
            {"layers": 2, "init": "teacher", "mask_ratio": 0.1, "layer_map": layer_map},
        ],
        "compare": {"methods": METHODS, "seeds": [0]},
        "schedule": {"name": schedule},
        "training": {"epochs": 4, "batch_size": 7, "precision": "fp32", "learning_rate": 1e-3},
        "resources": {"backend": backend},
    }
    state = Campaign(parse_config(content), tmp_path / "run").run()
    assert state.complete
    assert [record.reason for record in state.trials.values() if record.status == "failed"] == []
    students = [one for (_, grade), one in state.promotions.items() if grade == 2]
    assert len(students) == len(METHODS)
    assert {load_model(one.checkpoint).num_layers for one in students} == {2}
