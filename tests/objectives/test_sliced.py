"""ED: the divergence among the candidates of a part, by hand and against the columns cut out."""

from __future__ import annotations

import math

import pytest
import torch

from raydistill.errors import ShapeError
from raydistill.objectives.logits import kl_divergence
from raydistill.objectives.sliced import sliced_divergence
from raydistill.objectives.softmax import valid_log_softmax

GENERATOR = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 6, 9, generator=GENERATOR) * 4
VALID = torch.rand(6, 9, generator=GENERATOR) > 0.2
SLICE = torch.tensor([1, 1, 0, 1, 0, 1, 1, 0, 0], dtype=torch.bool)


def test_sliced_hand_numbers() -> None:
    """A softmax over all candidates that is cut afterwards sums to less than 1, and every number of it is another."""
    log = math.log
    # Among the first two the teacher has 3/4 and 1/4, the student a half each; the third is as likely as all others together, and not in the slice.
    teacher = torch.tensor([[log(3.0), 0.0, log(4.0), 9.0]])
    student = torch.tensor([[0.0, 0.0, log(2.0), 9.0]])
    valid = torch.tensor([[True, True, True, False]])
    in_slice = torch.tensor([[True, True, False, True]])
    value = sliced_divergence(student, teacher, valid, in_slice, temperature=1.0).values.item()
    assert value == pytest.approx(0.75 * log(1.5) + 0.25 * log(0.5), rel=1e-5)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_slice_is_the_columns_cut_out(tau: float) -> None:
    """Twin: what is outside a slice has no part in value or gradient, as if it had never been a column."""
    student = STUDENT.clone().requires_grad_()
    in_slice = SLICE.expand(6, -1)
    sliced = sliced_divergence(student, TEACHER, VALID, in_slice, temperature=tau)
    [gradient] = torch.autograd.grad(sliced.mean(), student)
    cut = STUDENT[:, SLICE].clone().requires_grad_()
    alone = kl_divergence(cut, TEACHER[:, SLICE], VALID[:, SLICE], temperature=tau)
    [expected] = torch.autograd.grad(alone.mean(), cut)
    torch.testing.assert_close(sliced.values, alone.values, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient[:, SLICE], expected, atol=1e-7, rtol=1e-6)
    assert not gradient[:, ~SLICE].any()


def test_slice_softmax_sums_to_one_over_the_slice() -> None:
    """Probability that leaks out of the slice: rows of a small part would be taught less than others."""
    compared = VALID & SLICE
    shares = valid_log_softmax(TEACHER, compared).exp().masked_fill(~compared, 0.0)
    torch.testing.assert_close(shares.sum(1), torch.ones(6))
    gradient = torch.func.grad(
        lambda scores: sliced_divergence(scores, TEACHER, VALID, SLICE.expand(6, -1), temperature=1.0).values.sum()
    )(STUDENT)
    # d/dl = q - p, so that what sums to 1 on both sides sums to 0.
    torch.testing.assert_close(gradient.sum(1), torch.zeros(6), atol=1e-5, rtol=0)


def test_whole_slice_is_the_plain_divergence() -> None:
    """A slice that leaves nothing out and still changes the loss."""
    everything = torch.ones_like(VALID)
    sliced = sliced_divergence(STUDENT, TEACHER, VALID, everything, temperature=4.0)
    plain = kl_divergence(STUDENT, TEACHER, VALID, temperature=4.0)
    torch.testing.assert_close(sliced.values, plain.values, atol=1e-7, rtol=0)
    torch.testing.assert_close(sliced.weights, plain.weights)


def test_slices_of_another_shape_are_refused() -> None:
    """One slice for all rows would broadcast, and teach every row among another part's candidates."""
    with pytest.raises(ShapeError, match="in_slice has shape"):
        sliced_divergence(STUDENT, TEACHER, VALID, SLICE[None], temperature=1.0)
    with pytest.raises(ShapeError, match="in_slice has type"):
        sliced_divergence(STUDENT, TEACHER, VALID, VALID.long(), temperature=1.0)
