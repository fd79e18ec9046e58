"""What every reshaper must hold, whatever it does to a student."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raydistill.config.methods import METHOD_SECTIONS
from raydistill.training.gather import World
from raydistill.training.keeping import CheckpointKeeper
from raydistill.training.methods.registry import METHODS
from raydistill.training.parts import TrialParts
from raydistill.training.resumption import agreed_newest

RESHAPED = {
    "dq": ["dq", "dq-ternary"],
    "homodistil": ["homodistil", "homodistil at once", "homodistil+tinybert"],
    "education": ["education"],
    "boot": ["boot", "boot-random"],
    "amd": ["amd", "amd, narrower"],
}
"""By the method that has a reshaper: the trials in which it is looked at."""
TRIALS = [name for names in RESHAPED.values() for name in names]
STEPS = (0, 1, 4, 8)
"""Nine steps are a training: before the first, in the middle, after the last but one."""


def test_every_reshaper_is_looked_at() -> None:
    """A new one that nobody held to anything."""
    assert RESHAPED.keys() == {name for name, recipe in METHODS.items() if recipe.reshaper is not None}
    assert METHODS.keys() == METHOD_SECTIONS.keys()


def vectors_of(parts: TrialParts) -> Tensor:
    """What the student makes of every entity, as in a validation."""
    entities = torch.arange(parts.trainer.builder.assembler.has_description.shape[0]).numpy()
    student = parts.student.eval()
    with torch.no_grad():
        return student.encode(parts.trainer.builder.assembler.entity_texts(entities), "entity").vectors


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", TRIALS)
def test_what_is_kept_brings_a_new_student_to_the_same_shape(
    parts_of: Callable[..., TrialParts], tmp_path: Path, name: str, steps: int
) -> None:
    """A record that JSON changes, a tensor on a device or one that another name hides, or a student that is another one after it was restored."""
    settings = {"epochs": 3, "batch_size": 6}
    parts, again = (parts_of(name, training=settings) for _ in range(2))
    taken = 0
    while taken < steps:
        for _ in parts.trainer.run_epoch():
            taken += 1
            if taken == steps:
                break
    structure = parts.trainer.structure
    records, tensors = structure.records(), structure.tensors()
    assert json.loads(json.dumps(records)) == records
    assert [record["name"] for record in records] == [one.name for one in structure.reshapers]
    assert all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors.values())
    assert not any(tensor.requires_grad for tensor in tensors.values())
    CheckpointKeeper(tmp_path, keep=9, writes=True).save_inside_epoch(parts)
    CheckpointKeeper(tmp_path, keep=9, writes=True).resume(again, agreed_newest(tmp_path, World.alone()))
    assert again.trainer.structure.records() == records
    kept = again.trainer.structure.tensors()
    assert kept.keys() == tensors.keys()
    assert all(torch.equal(kept[key], tensor) for key, tensor in tensors.items())
    shapes, others = ({n: p.shape for n, p in one.student.named_parameters()} for one in (parts, again))
    assert shapes == others
    assert torch.equal(vectors_of(again), vectors_of(parts))
