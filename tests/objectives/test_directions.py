"""Directions of token states: by hand, and blind to length."""

from __future__ import annotations

import torch

from raydistill.objectives.directions import direction_distance

TWO_TEXTS = torch.tensor([0, 0, 1])


def test_direction_distance_by_hand() -> None:
    """Half of it missing, or a mean over texts instead of tokens."""
    student = torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    teacher = torch.tensor([[0.0, 2.0], [0.0, -1.0], [2.0, 0.0]])
    result = direction_distance(student, teacher, TWO_TEXTS, 2)
    # Right angle: 1; opposite: 2; an eighth of a turn: 1 - 1/sqrt(2).
    assert torch.allclose(result.values, torch.tensor([1.5, 1 - 0.5**0.5]))
    assert result.weights.tolist() == [2, 1]
    assert torch.allclose(result.mean(), torch.tensor((1 + 2 + 1 - 0.5**0.5) / 3))


def test_length_of_a_state_has_no_say() -> None:
    """A student that is punished for states that are c times its teacher's."""
    teacher = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    factors = torch.tensor([[0.1], [1.0], [30.0]])
    student = (factors * teacher).requires_grad_()
    result = direction_distance(student, teacher, TWO_TEXTS, 2)
    assert result.values.abs().max() < 1e-12
    result.mean().backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-5


def test_it_is_one_less_the_cosine() -> None:
    """A distance that only looks like it near equality."""
    student, teacher = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = 1 - torch.nn.functional.cosine_similarity(student, teacher)
    found = direction_distance(student, teacher, torch.arange(3), 3)
    assert torch.allclose(found.values, expected, atol=1e-12)
