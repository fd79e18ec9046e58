"""Learned clipping: neither shut nor wide open after training, and blind to how columns are ordered."""

from __future__ import annotations

import pytest
import torch

from raydistill.objectives.clipped import clipped_divergence, kept_mass, rank_gates, teacher_ranks
from raydistill.training.optimizer import Optimizer
from raydistill.training.own import drawn_from
from raydistill.training.terms.revision import HINGE, Bounds


def test_bounds_do_not_depend_on_the_order_of_columns() -> None:
    """A part of the distribution that is kept because of where its candidates stand in the batch."""
    with drawn_from(0, "bounds"):
        bounds = Bounds()
    student, teacher = torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(0))
    valid = torch.rand(4, 50, generator=torch.Generator().manual_seed(1)) > 0.2
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    for one, other in zip(
        bounds(student, teacher, valid), bounds(student[:, order], teacher[:, order], valid[:, order]), strict=True
    ):
        torch.testing.assert_close(one, other)
    upper, lower = bounds(student[:, :3], teacher[:, :3], valid[:, :3])
    assert bool((upper <= lower).all())


@pytest.mark.slow
def test_clipping_neither_collapses_nor_idles() -> None:
    """Trained by the clipped divergence alone one candidate is kept, with a penalty on all that is left out all of them: the hinge has to hold it in between."""
    mass_asked = 0.7
    with drawn_from(0, "bounds"):
        bounds = Bounds()
    generator = torch.Generator().manual_seed(0)
    # As a trial trains them: beside a model, at the model's default rate.
    optimizer = Optimizer(
        torch.nn.Linear(1, 1),
        learning_rate=5e-5,
        weight_decay=1e-4,
        warmup_steps=50,
        total_steps=500,
        own={"clipped": bounds},
    )
    for step in range(500):
        teacher = torch.randn(32, 128, generator=generator) * 1.5
        student = teacher + torch.randn(32, 128, generator=generator)
        valid, positives = torch.ones(32, 128, dtype=torch.bool), teacher.argmax(1)
        gates = rank_gates(teacher_ranks(teacher, valid), positives, valid, *bounds(student, teacher, valid), least=2)
        mass = kept_mass(teacher, gates, valid)
        value = clipped_divergence(student, teacher, gates, valid).mean()
        (value + HINGE * (mass_asked - mass).clamp(min=0).mean()).backward()
        optimizer.step(step)
    assert mass.mean() >= mass_asked - 0.05
    assert (gates > 0.5).sum(1).float().mean() < 100
