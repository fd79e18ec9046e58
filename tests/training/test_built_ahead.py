"""Trials whose batches a process puts together beside the one that trains, as where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from raydistill.training.parts import TrialParts

Build = Callable[..., TrialParts]


@pytest.mark.parametrize(
    ("method", "changes", "builders"),
    [
        ("pmd", {"contrastive": {"pre_batch": 2}, "encoder": {"dropout": 0.1}}, 1),
        ("pmd", {"encoder": {"dropout": 0.1}}, 2),
        ("boot", {}, 3),
        ("education", {}, 2),
    ],
    ids=["earlier batches", "masks", "random examples", "parts"],
)
@pytest.mark.parametrize("first_step", [0, 1])
def test_whoever_builds_batches_the_same_is_learnt(
    parts_of: Build, method: str, changes: dict[str, Any], builders: int, first_step: int
) -> None:
    """Negatives, masks or times of another step, because what counts them lives in the other process; or an epoch that is gone on with from its beginning."""

    def trained(ahead: int) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
        parts = parts_of(method, training={"batch_size": 5, "epochs": 4}, **changes)
        trainer, averages = parts.trainer, []
        trainer.builders, trainer.progress.step_in_epoch = ahead, first_step
        for _ in range(2):
            assert sum(1 for _ in trainer.run_epoch()) == trainer.source.steps_per_epoch - (
                first_step if not averages else 0
            )
            found = trainer.averages()
            averages.append({name: value for name, value in found.items() if "second" not in name})
        return parts.student.state_dict(), averages

    weights, averages = trained(ahead=0)
    again, others = trained(ahead=builders)
    assert others == averages
    assert all(torch.equal(weights[name], again[name]) for name in weights)
