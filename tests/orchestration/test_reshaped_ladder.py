"""A ladder whose every grade changes its student, or has several teachers: real trials on a real Ray cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydistill.config.load import parse_config
from raydistill.orchestration.campaign import Campaign
from raydistill.training.checkpoint import load_model, read_record

pytestmark = pytest.mark.ray

GRADES: list[dict[str, Any]] = [
    {"layers": 3, "method": {"name": "amd", "depths": [2, 3]}},
    {"layers": 2, "method": {"name": "reinforced", "warmup_ratio": 0}},
    {"layers": 2, "init": "teacher", "method": {"name": "homodistil", "width": 12, "end": 0.3}},
    {"layers": 1, "init": "teacher", "method": {"name": "dq"}},
]


@pytest.mark.parametrize("schedule", ["sequential", "pipelined"])
def test_every_grade_teaches_the_next_one_as_what_it_has_become(
    cluster: None, dataset_folder: Path, encoder_folder: Callable[..., Path], tmp_path: Path, schedule: str
) -> None:
    """An assistant that teaches as the student it was cut from, a narrow or packed teacher that nobody can load, or grades that wait for each other for ever."""
    content = {
        "data": {"path": str(dataset_folder), "max_tokens": 32},
        "encoder": {"name": str(encoder_folder("bert", dropout=0.0, layers=4))},
        "grades": GRADES,
        "schedule": {"name": schedule},
        "training": {"epochs": 2, "batch_size": 7, "precision": "fp32", "learning_rate": 1e-3},
        "resources": {"backend": "inline"},
    }
    state = Campaign(parse_config(content), tmp_path / "run").run()
    assert state.complete
    final = [state.promotions["main", grade].checkpoint for grade in range(5)]
    records = [read_record(path) for path in final]
    assert records[1]["layers"] in (2, 3)
    assert records[1]["layers"] == load_model(final[1]).num_layers == state.tests["main", 1]["layers"]
    assert [load_model(path).hidden_size for path in final] == [16, 16, 16, 12, 12]
    assert (Path(final[4]) / "query_encoder" / "packed.safetensors").exists()
    digests = [state.promotions["main", grade].digest for grade in range(5)]
    assert [record["lineage"] for record in records] == [digests[:grade] for grade in range(5)]
    trial = json.loads((Path(final[2]).parents[1] / "trial.json").read_text())
    assert [one["digest"] for one in trial["others"]] == (digests[:1] if schedule == "sequential" else [])
