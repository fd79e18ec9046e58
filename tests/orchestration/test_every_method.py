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
from raydistill.config.space import bounds
from raydistill.orchestration.campaign import Campaign
from raydistill.planning.state import CampaignState
from raydistill.students.layers import resolve_layer_map
from raydistill.training.checkpoint import load_model, read_record

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
    {"name": "amd", "depths": [1, 2], "intermediate": [20]},
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


LAYERS = {0: 4, 1: 3}
"""Of the grades that may teach the last one."""
UNLIKE = {"self-feature", "boot", "education", "homodistil", "amd"}
"""No teacher, no triple, a student that grows, one that shrinks, one that is chosen from several."""


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
    assert_complete(run_methods(METHODS, schedule, backend, layer_map), METHODS, schedule, layer_map)


@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_methods_unlike_the_others_run_under_ray_train(run_methods: Callable[..., CampaignState]) -> None:
    """A worker of Ray Train that cannot say what shape its student has, or what it is taught by."""
    unlike = [method for method in METHODS if method["name"] in UNLIKE]
    assert len(unlike) == len(UNLIKE)
    assert_complete(run_methods(unlike, "pipelined", "train", [0, 2]), unlike, "pipelined", [0, 2])


@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_usual_space_of_a_method_is_searched(run_methods: Callable[..., CampaignState]) -> None:
    """A word in a method's section that no trial ever hears of: all would be trained with one value, or with the word."""
    methods = [{"name": "pmd", "alpha": "search", "beta": "search"}, {"name": "dkd", "beta": "search"}]
    state = run_methods(methods, "sequential", "inline", "skip", trials=2)
    assert_complete(state, methods, "sequential", "skip")
    for method in methods:
        trials = state.of(f"{method['name']}-seed0", 2)
        assert len(trials) == 2
        searched = [key for key, value in method.items() if value == "search"]
        assert all(one.parameters.keys() == {f"method.{key}" for key in searched} for one in trials)
        promoted = state.promotions[f"{method['name']}-seed0", 2]
        [best] = [one for one in trials if one.identity == promoted.identity]
        section, own = (
            METHOD_SECTIONS[method["name"]].model_validate(method),
            read_record(promoted.checkpoint)["method"],
        )
        for key in searched:
            low, high = bounds(getattr(section, key))
            values = [one.parameters[f"method.{key}"] for one in trials]
            assert len(set(values)) == 2
            assert all(low <= value <= high for value in values)
            assert own[key] == best.parameters[f"method.{key}"]


@pytest.fixture
def run_methods(
    cluster: None, dataset_folder: Path, encoder_folder: Callable[..., Path], tmp_path: Path
) -> Callable[..., CampaignState]:
    """A campaign of 4, 3 and 2 layers, its last grade by each of some methods."""

    def run(
        methods: list[dict[str, Any]], schedule: str, backend: str, layer_map: str | list[int], trials: int = 1
    ) -> CampaignState:
        content = {
            "data": {"path": str(dataset_folder), "max_tokens": 32},
            "encoder": {"name": str(encoder_folder("bert", dropout=0.0, layers=4))},
            "grades": [
                {"layers": 3, "init": "teacher", "method": {"name": "logits"}},
                {"layers": 2, "init": "teacher", "mask_ratio": 0.1, "layer_map": layer_map, "trials": trials},
            ],
            "compare": {"methods": methods, "seeds": [0]},
            "schedule": {"name": schedule},
            "training": {"epochs": 4, "batch_size": 7, "precision": "fp32", "learning_rate": 1e-3},
            "resources": {"backend": backend},
        }
        return Campaign(parse_config(content), tmp_path / "run").run()

    return run


def assert_complete(
    state: CampaignState, methods: list[dict[str, Any]], schedule: str, layer_map: str | list[int]
) -> None:
    """Every method has a student of two layers, which are those of the map, of the teacher that the schedule says."""
    above, rule = 0 if schedule == "independent" else 1, layer_map if isinstance(layer_map, str) else tuple(layer_map)
    assert state.complete
    assert [record.reason for record in state.trials.values() if record.status == "failed"] == []
    students = {lineage: one for (lineage, grade), one in state.promotions.items() if grade == 2}
    assert sorted(read_record(one.checkpoint)["method"]["name"] for one in students.values()) == sorted(
        method["name"] for method in methods
    )
    for lineage, one in students.items():
        record = read_record(one.checkpoint)
        # What amd chose may be shallower.
        depth = record["layers"] if record["method"]["name"] == "amd" else 2
        assert load_model(one.checkpoint).num_layers == depth
        assert tuple(record["layer_map"]) == resolve_layer_map(rule, LAYERS[above], 2)[:depth]
        # Where grades do not wait, the best epoch may be one under a checkpoint that was only announced.
        taught = [epoch.digest for trial in state.of(lineage, 2) for epoch in trial.taught.values()]
        assert record["lineage"][-1] in {state.promotions[lineage, above].digest, *taught}
