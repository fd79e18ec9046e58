from __future__ import annotations

import pytest
import torch
from torch import nn

from raydistill.training.optimizer import Optimizer


class Model(nn.Module):
    """A matrix, a bias, a LayerNorm, a temperature, and something frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm = nn.Linear(3, 2), nn.LayerNorm(2)
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def optimizer_of(model: Model, decay: float = 0.0, warmup: int = 2, total: int = 10) -> Optimizer:
    return Optimizer(model, learning_rate=0.1, weight_decay=decay, warmup_steps=warmup, total_steps=total)


def take_step(model: Model, optimizer: Optimizer, step: int) -> None:
    output = model.norm(model.linear(torch.tensor([[1.0, -2.0, 0.5]]))) * model.temperature
    (output.square().sum() + output[0, 0] + step * model.linear.weight.sum()).backward()  # type: ignore[no-untyped-call]
    optimizer.step(step)


def test_learning_rate_rises_and_falls_linearly() -> None:
    """A first step at full rate, a last one at zero, or a rate that becomes negative when training goes on."""
    optimizer = optimizer_of(Model(), warmup=4, total=12)
    assert [optimizer.rate(step) for step in range(4)] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert [optimizer.rate(step) for step in (4, 6, 8, 11)] == pytest.approx([0.1, 0.075, 0.05, 0.0125])
    assert optimizer.rate(12) == optimizer.rate(40) == 0
    assert optimizer_of(Model(), warmup=0, total=1).rate(0) == pytest.approx(0.1)
    assert optimizer_of(Model(), warmup=10, total=10).rate(9) == pytest.approx(0.1)


def test_decay_acts_on_matrices_alone() -> None:
    """A temperature pulled towards 1 and LayerNorms towards 0, as in the public code."""
    model = Model()
    optimizer = optimizer_of(model, decay=0.5)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _, parameter in optimizer.named:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(1)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {"linear.weight"}
    torch.testing.assert_close(model.linear.weight, before["linear.weight"] * (1 - 0.1 * 0.5))


def test_frozen_parameters_are_left_alone() -> None:
    """Moments kept, saved and loaded for what is never trained."""
    optimizer = optimizer_of(Model())
    assert "frozen" not in dict(optimizer.named)
    assert len(optimizer.parameters) == 5


def test_optimizer_goes_on_from_its_tensors_bit_for_bit() -> None:
    """A resumed run whose moments, or whose bias correction, begin anew."""
    straight, stopped = Model(), Model()
    one, two = optimizer_of(straight, decay=0.1), optimizer_of(stopped, decay=0.1)
    for step in range(3):
        take_step(straight, one, step)
        take_step(stopped, two, step)
    kept = two.tensors()
    assert {key.split(".")[0] for key in kept} == {"step", "exp_avg", "exp_avg_sq"}
    resumed = Model()
    resumed.load_state_dict(stopped.state_dict())
    three = optimizer_of(resumed, decay=0.1)
    three.load(kept)
    for step in range(3, 8):
        take_step(straight, one, step)
        take_step(resumed, three, step)
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in straight.state_dict().items())


def test_saved_moments_are_copies() -> None:
    """A checkpoint that is changed by the next step while it is being written."""
    model = Model()
    optimizer = optimizer_of(model)
    take_step(model, optimizer, 0)
    kept = optimizer.tensors()
    before = {name: tensor.clone() for name, tensor in kept.items()}
    take_step(model, optimizer, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.items())
    assert not torch.equal(optimizer.tensors()["exp_avg.linear.weight"], before["exp_avg.linear.weight"])


def test_gradients_are_forgotten_after_a_step() -> None:
    """Gradients of one batch added to the next one's."""
    model = Model()
    optimizer = optimizer_of(model)
    take_step(model, optimizer, 0)
    assert all(parameter.grad is None for parameter in optimizer.parameters)
