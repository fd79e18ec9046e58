"""The mean over rows, and the sums that add up over workers."""

from __future__ import annotations

import pytest
import torch

from raydistill.errors import ShapeError
from raydistill.objectives.weighted import Weighted


def test_mean_weighs_the_rows() -> None:
    """A text with one masked token would count as much as one with three."""
    assert Weighted(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 1.0])).mean().item() == 2.0


def test_all_weights_zero_gives_zero_with_a_zero_gradient() -> None:
    """A batch of short texts without any mask would end training with NaN."""
    values = torch.tensor([1.0, 5.0], requires_grad=True)
    mean = Weighted(values, torch.zeros(2)).mean()
    mean.backward()
    assert mean.item() == 0.0
    assert torch.equal(values.grad, torch.zeros(2))


def test_no_row_at_all_gives_zero() -> None:
    """A worker whose share of the batch is empty would report NaN."""
    assert Weighted(torch.zeros(0), torch.zeros(0)).mean().item() == 0.0


def test_sums_of_parts_add_up_to_the_whole() -> None:
    """The mean of two workers' means is wrong as soon as their weights differ."""
    values, weights = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([2.0, 0.0, 1.0])
    first, second = Weighted(values[:1], weights[:1]).sums(), Weighted(values[1:], weights[1:]).sums()
    whole = Weighted(values, weights).mean()
    assert ((first[0] + second[0]) / (first[1] + second[1])).item() == pytest.approx(whole.item())


@pytest.mark.parametrize("weights", [torch.ones(1), torch.ones(2, 1), torch.ones(())])
def test_weights_that_would_broadcast_are_refused(weights: torch.Tensor) -> None:
    """One weight for all rows would be summed once but multiplied many times."""
    with pytest.raises(ShapeError, match="same length"):
        Weighted(torch.ones(2), weights).mean()
