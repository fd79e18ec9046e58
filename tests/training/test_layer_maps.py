"""Every method with every layer map: a whole trial of each. Schedules and back ends, which know nothing of layers, are in tests/orchestration/test_every_method.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.config.methods import METHOD_SECTIONS
from raydistill.config.trial import TrialConfig
from raydistill.students.layers import RULES
from raydistill.training.checkpoint import load_model, read_record
from raydistill.training.gather import World
from raydistill.training.parts import build_parts
from raydistill.training.trial import EpochReport

LAYERS = {"uniform": (0, 3), "first": (0, 1), "last": (2, 3), "skip": (1, 3), "named": (0, 2)}
"""Of a teacher of four, for a student of two."""


def test_every_rule_and_method_is_here(methods: dict[str, dict[str, Any]]) -> None:
    """A new one that no method was ever trained with, or a method that was never trained with one."""
    assert LAYERS.keys() - {"named"} == set(RULES)
    assert len(set(LAYERS.values())) == len(LAYERS)
    assert {one["name"] for one in methods.values()} == METHOD_SECTIONS.keys()


@pytest.mark.parametrize("rule", LAYERS)
def test_method_trains_a_student_of_these_layers(
    config_of: Callable[..., TrialConfig],
    train: Callable[..., list[EpochReport]],
    tmp_path: Path,
    each_method: str,
    rule: str,
) -> None:
    """A method that looks for a layer which its student does not have, or trains another student than was asked for."""
    layer_map = LAYERS[rule] if rule == "named" else rule
    config = config_of(each_method, layers=2, init="teacher", layer_map=layer_map)
    assert config.layer_map == LAYERS[rule]
    assert config.teacher is not None
    teacher, begun = load_model(config.teacher.path), build_parts(config, World.alone()).student
    for tower in ("query_encoder", "entity_encoder"):
        for own, theirs in enumerate(LAYERS[rule]):
            key = "encoder.layer.{}.attention.self.value.weight"
            if own < begun.num_layers:
                source = getattr(teacher, tower).get_parameter(key.format(theirs))
                assert torch.equal(getattr(begun, tower).state_dict()[key.format(own)], source)
    last = train(config, tmp_path)[-1]
    assert math.isfinite(last.metrics["loss"])
    record = read_record(str(last.checkpoint))
    assert tuple(record["layer_map"]) == LAYERS[rule][: record["layers"]]
    assert load_model(str(last.checkpoint)).num_layers == record["layers"]
