"""The choice of teachers by hand: what the policy sees, what its choices weigh, and what it is told."""

from __future__ import annotations

import math

import pytest
import torch

from raydistill.errors import ShapeError
from raydistill.objectives.selection import (
    FEATURES,
    HIGHEST,
    LEAST,
    MOST,
    MOST_ADVANTAGE,
    advantages,
    log_likelihood,
    missed,
    mixed,
    policy_loss,
    probabilities,
    shares,
    taught_by,
    teacher_features,
)
from raydistill.objectives.weighted import Weighted


def test_weights_of_every_row_sum_to_one_and_are_never_all_zero() -> None:
    """A row without a choice that nobody teaches: written through a second index, all teachers would be put into a copy."""
    chosen = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=torch.bool)
    weights = shares(taught_by(chosen).float())
    third = 1 / 3
    expected = torch.tensor([[0.5, 0, 0.5], [third] * 3, [0, 1, 0], [third] * 3])
    torch.testing.assert_close(weights, expected)
    drawn = torch.rand(500, 4, generator=torch.Generator().manual_seed(0)) < 0.2
    assert not drawn.any(1).all()
    torch.testing.assert_close(shares(taught_by(drawn).float()).sum(1), torch.ones(500))
    assert torch.equal(taught_by(drawn)[drawn.any(1)], drawn[drawn.any(1)])


def test_likelihood_of_what_was_done_by_hand() -> None:
    """A policy that is paid for the opposite of what it did."""
    pi = torch.tensor([[0.8, 0.3], [0.5, 0.9]])
    chosen = torch.tensor([[True, False], [False, True]])
    expected = torch.tensor([math.log(0.8) + math.log(0.7), math.log(0.5) + math.log(0.9)])
    torch.testing.assert_close(log_likelihood(chosen, pi), expected)


def test_gradient_of_the_policy_by_hand() -> None:
    """d log pi / d raw = a - sigmoid(raw) for plain sigmoids; squeezed ones have the chain rule's factor besides. Good news must make what was done likelier."""
    raw = torch.tensor([[0.5, -1.0]], dtype=torch.float64, requires_grad=True)
    chosen, advantage = torch.tensor([[True, False]]), torch.tensor([2.0], dtype=torch.float64)
    [gradient] = torch.autograd.grad(policy_loss(chosen, probabilities(raw), advantage), raw)
    for column, (x, on) in enumerate([(0.5, True), (-1.0, False)]):
        plain = 1 / (1 + math.exp(-x))
        pi, slope = LEAST + 0.96 * plain, 0.96 * plain * (1 - plain)
        assert float(gradient[0, column]) == pytest.approx(-2.0 * (slope / pi if on else -slope / (1 - pi)))
    assert gradient[0, 0] < 0 < gradient[0, 1]


def test_probability_never_leaves_its_bounds_and_always_moves() -> None:
    """A policy that went too far once and never comes back, or never tries a teacher again."""
    raw = torch.tensor([-12.0, 0.0, 12.0], dtype=torch.float64, requires_grad=True)
    pi = probabilities(raw)
    assert pi.tolist() == pytest.approx([LEAST, 0.5, MOST], abs=1e-4)
    [gradient] = torch.autograd.grad(pi.sum(), raw)
    assert bool((gradient > 0).all())


def test_features_by_hand() -> None:
    """A share of another distribution than it says."""
    teacher, student = torch.tensor([[[0.5, 0.25, 0.25]]]).log(), torch.tensor([[0.25, 0.25, 0.5]]).log()
    valid, positives = torch.ones(1, 3, dtype=torch.bool), torch.tensor([1])
    found = teacher_features(student, teacher, positives, valid)[0, 0]
    highest = [0.5, 0.25, 0.25] + [0.0] * (HIGHEST - 3)
    entropy = (0.5 * math.log(2) + 0.5 * math.log(4)) / math.log(3)
    assert found.tolist() == pytest.approx([*highest, entropy, math.log(4) / math.log(3), 0.75])
    assert len(found) == FEATURES


def test_features_do_not_depend_on_columns() -> None:
    """A policy that knows candidates by where they stand, or sees those that may not be compared."""
    generator = torch.Generator().manual_seed(0)
    student, positives = torch.randn(4, 30, generator=generator), torch.tensor([0, 3, 7, 29])
    teacher = torch.randn(4, 2, 30, generator=generator)
    valid = torch.rand(4, 30, generator=generator) > 0.3
    valid[torch.arange(4), positives] = True
    expected = teacher_features(student, teacher, positives, valid)
    order = torch.randperm(30, generator=generator)
    moved = teacher_features(student[:, order], teacher[:, :, order], order.argsort()[positives], valid[:, order])
    torch.testing.assert_close(moved, expected)
    garbage = teacher.masked_fill(~valid[:, None], float("nan")), student.masked_fill(~valid, float("nan"))
    torch.testing.assert_close(teacher_features(garbage[1], garbage[0], positives, valid), expected)
    few = teacher_features(student[:, :1], teacher[:, :, :1], torch.zeros(4, dtype=torch.int64), valid[:, :1] | True)
    assert few.shape == (4, 2, FEATURES)
    assert bool(few.isfinite().all())


def test_no_gradient_goes_through_what_the_policy_sees() -> None:
    """A student that learns to look as if its teachers were right."""
    leaf = torch.randn(2, 3, requires_grad=True)
    positives, valid = torch.zeros(2, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)
    assert not teacher_features(leaf, leaf[:, None], positives, valid).requires_grad
    assert not missed(leaf, positives, valid).requires_grad


def test_advantage_is_measured_by_the_batch_and_bounded() -> None:
    """Rewards that shift all choices alike, or one example that takes all of the gradient."""
    found = advantages(torch.tensor([1.0, 3.0]), torch.tensor(2.0))
    torch.testing.assert_close(found, torch.tensor([-1.0, 1.0]), rtol=2e-3, atol=0)
    assert advantages(torch.tensor([5.0]), torch.tensor(0.0)).tolist() == [MOST_ADVANTAGE]


def test_mixture_by_hand_and_refusal() -> None:
    """Examples taught by each other's teachers, without a word."""
    losses = [Weighted(torch.tensor([1.0, 2.0]), torch.ones(2)), Weighted(torch.tensor([3.0, 6.0]), torch.ones(2))]
    found = mixed(losses, torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    assert found.values.tolist() == [2.0, 6.0]
    with pytest.raises(ShapeError, match="2 examples and 2 teachers"):
        mixed(losses, torch.ones(2, 1))
