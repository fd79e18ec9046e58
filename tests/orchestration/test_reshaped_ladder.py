"""A ladder whose every grade changes its student, or has several teachers; and teachers that are named: real trials on a real Ray cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydistill.config.load import parse_config
from raydistill.orchestration.campaign import Campaign
from raydistill.training.checkpoint import load_model, read_record
from raydistill.training.manifest import verify_checkpoint
from raydistill.training.structural.learning import StructuralSettings
from raydistill.training.structural.making import make_structural

pytestmark = pytest.mark.ray

GRADES: list[dict[str, Any]] = [
    {"layers": 3, "method": {"name": "amd", "depths": [2, 3], "intermediate": [20]}},
    {"layers": 2, "method": {"name": "reinforced", "warmup_ratio": 0}},
    {"layers": 2, "init": "teacher", "method": {"name": "homodistil", "width": 12, "end": 0.3}},
    {"layers": 1, "init": "teacher", "method": {"name": "dq"}},
]


def campaign(dataset: Path, encoder: Path, *, epochs: int) -> dict[str, Any]:
    """What is common to the ladders."""
    return {
        "data": {"path": str(dataset), "max_tokens": 32},
        "encoder": {"name": str(encoder)},
        "training": {"epochs": epochs, "batch_size": 7, "precision": "fp32", "learning_rate": 1e-3},
        "resources": {"backend": "inline"},
    }


@pytest.mark.parametrize("schedule", ["sequential", "pipelined"])
def test_every_grade_teaches_the_next_one_as_what_it_has_become(
    cluster: None, dataset_folder: Path, encoder_folder: Callable[..., Path], tmp_path: Path, schedule: str
) -> None:
    """An assistant that teaches as the student it was cut from, a narrow or packed teacher that nobody can load, or grades that wait for each other for ever."""
    encoder = encoder_folder("bert", dropout=0.0, layers=4)
    content = {**campaign(dataset_folder, encoder, epochs=2), "grades": GRADES, "schedule": {"name": schedule}}
    state = Campaign(parse_config(content), tmp_path / "run").run()
    assert state.complete
    final = [state.promotions["main", grade].checkpoint for grade in range(5)]
    records = [read_record(path) for path in final]
    assert records[1]["layers"] in (2, 3)
    assert records[1]["layers"] == load_model(final[1]).num_layers == state.tests["main", 1]["layers"]
    assert [load_model(path).hidden_size for path in final] == [16, 16, 16, 12, 12]
    assert (Path(final[4]) / "query_encoder" / "packed.safetensors").exists()
    digests = [state.promotions["main", grade].digest for grade in range(5)]
    assert [len(record["lineage"]) for record in records] == list(range(5))
    for grade in range(1, 5):
        # Where grades do not wait, the best epoch may be one under a checkpoint that was only announced.
        taught = {epoch.digest for epoch in state.trials["main", grade, 0].taught.values()}
        assert records[grade]["lineage"][-1] in {digests[grade - 1]} | taught
        if schedule != "pipelined" or records[grade]["lineage"][-1] == digests[grade - 1]:
            assert records[grade]["lineage"][:-1] == records[grade - 1]["lineage"]
    trial = json.loads((Path(final[2]).parents[1] / "trial.json").read_text())
    assert [one["digest"] for one in trial["others"]] == (digests[:1] if schedule == "sequential" else [])


def test_named_teachers_teach_each_in_its_way(
    cluster: None, dataset_folder: Path, encoder_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """A teacher of a part, or a structural one, that is found where a test puts it together and not where a campaign does."""
    usual = campaign(dataset_folder, encoder_folder("bert", dropout=0.0, layers=4), epochs=4)
    make_structural(dataset_folder, tmp_path / "tables", StructuralSettings(dimension=8, epochs=2))
    above = {"layers": 3, "init": "teacher", "method": {"name": "none"}}
    first = Campaign(parse_config({**usual, "grades": [above]}), tmp_path / "first").run()
    named = [first.promotions["main", grade].checkpoint for grade in (0, 1)]
    school = {"name": "education", "stages": 2, "teachers": named}
    chosen = {"name": "reinforced", "warmup_ratio": 0, "teachers": [str(tmp_path / "tables")]}
    content = {**usual, "grades": [{"layers": 2}], "compare": {"methods": [school, chosen], "seeds": [0]}}
    state = Campaign(parse_config({**content, "teacher": {"checkpoint": named[0]}}), tmp_path / "second").run()
    assert state.complete
    others = {}
    for lineage, promoted in ((key[0], one) for key, one in state.promotions.items() if key[1] == 1):
        trial = json.loads((Path(promoted.checkpoint).parents[1] / "trial.json").read_text())
        others[lineage] = [one["digest"] for one in trial["others"]]
    assert others == {
        "education-seed0": [verify_checkpoint(place) for place in named],
        "reinforced-seed0": [verify_checkpoint(tmp_path / "tables")],
    }
