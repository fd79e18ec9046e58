"""Masked feature objectives on two texts of four tokens with three hidden units, worked on paper."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raydistill.errors import ConfigError, ShapeError
from raydistill.objectives.masked import masked_feature_per_token, masked_feature_pooled

# fmt: off
STUDENT = torch.tensor([[6, 0, 0], [7, 7, 7], [0, 8, 0], [1, 2, 3], [9, 9, 9], [0, 5, 0], [0, 0, 0], [4, 4, 4]]).float()
TEACHER = torch.tensor([[0, 0, 2], [1, 0, 1], [0, 0, 4], [3, 2, 1], [1, 1, 1], [0, 3, 4], [8, 8, 8], [5, 5, 5]]).float()
MASKED = torch.tensor( [True,      False,     True,      False,     False,     True,      False,     False])
# fmt: on
TEXT_OF_TOKEN = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])


def test_per_token_hand_numbers() -> None:
    """A mean over texts instead of masked tokens, or over all tokens, gives another ladder than the paper's."""
    result = masked_feature_per_token(STUDENT, TEACHER, MASKED, TEXT_OF_TOKEN, 2)
    torch.testing.assert_close(result.values, torch.tensor([(40 / 3 + 80 / 3) / 2, 20 / 3]))
    assert result.weights.tolist() == [2.0, 1.0]
    assert result.mean().item() == pytest.approx((40 / 3 + 80 / 3 + 20 / 3) / 3)


def test_per_token_sum_over_hidden() -> None:
    """The two readings of the paper differ by the hidden width, that is by three orders of magnitude."""
    result = masked_feature_per_token(STUDENT, TEACHER, MASKED, TEXT_OF_TOKEN, 2, over_hidden="sum")
    torch.testing.assert_close(result.values, torch.tensor([60.0, 20.0]))


def test_per_token_mean_is_the_plain_mse_over_masked_tokens() -> None:
    """Grouping by text must not change the mean over all masked tokens of the batch."""
    result = masked_feature_per_token(STUDENT, TEACHER, MASKED, TEXT_OF_TOKEN, 2)
    assert result.mean().item() == pytest.approx(torch.nn.functional.mse_loss(STUDENT[MASKED], TEACHER[MASKED]).item())


def test_pooled_hand_numbers() -> None:
    """Normalising tokens before the mean, instead of the mean, changes the target."""
    # text 0: (3, 4, 0)/5 against (0, 0, 1); text 1: (0, 1, 0) against (0, .6, .8)
    result = masked_feature_pooled(STUDENT, TEACHER, MASKED, TEXT_OF_TOKEN, 2)
    torch.testing.assert_close(result.values, torch.tensor([2 / 3, 0.8 / 3]))
    assert result.weights.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("objective", [masked_feature_per_token, masked_feature_pooled])
def test_texts_without_a_masked_token_do_not_dilute_the_mean(objective: object) -> None:
    """At 5 % most short texts have no mask; counted as zeros they would shrink the term."""
    masked = MASKED & (TEXT_OF_TOKEN == 0)
    result = objective(STUDENT, TEACHER, masked, TEXT_OF_TOKEN, 2)
    assert result.weights[1].item() == 0.0
    assert result.mean().item() == pytest.approx(result.values[0].item())


def test_a_student_state_of_zeros_has_a_finite_gradient() -> None:
    """The direction of a zero vector is undefined, and its gradient NaN in the textbook formula."""
    student = torch.zeros(8, 3, requires_grad=True)
    masked_feature_pooled(student, TEACHER, MASKED, TEXT_OF_TOKEN, 2).mean().backward()
    assert bool(student.grad.isfinite().all())
    assert student.grad.abs().max() < 10


@pytest.mark.parametrize("objective", [masked_feature_per_token, masked_feature_pooled])
def test_unequal_widths_name_the_projection(objective: object) -> None:
    """A narrower student needs a way out, not a broadcasting error."""
    with pytest.raises(ShapeError, match="projection"):
        objective(STUDENT[:, :2], TEACHER, MASKED, TEXT_OF_TOKEN, 2)


@pytest.mark.parametrize(
    ("masked", "text_of_token", "num_texts", "match"),
    [
        (MASKED[:, None], TEXT_OF_TOKEN, 2, "masked"),
        (MASKED.float(), TEXT_OF_TOKEN, 2, r"torch\.bool"),
        (MASKED, TEXT_OF_TOKEN[:4], 2, "text_of_token"),
        (MASKED, TEXT_OF_TOKEN, 1, "positions in"),
        (MASKED, TEXT_OF_TOKEN - 1, 2, "positions in"),
        (MASKED, TEXT_OF_TOKEN.int(), 2, "int64"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(masked: Tensor, text_of_token: Tensor, num_texts: int, match: str) -> None:
    """Masks of one tower with the states of the other have almost the right length."""
    with pytest.raises(ShapeError, match=match):
        masked_feature_per_token(STUDENT, TEACHER, masked, text_of_token, num_texts)


def test_an_unknown_reduction_is_refused() -> None:
    """A typo would silently choose the other preset."""
    with pytest.raises(ConfigError, match="over_hidden is 'total'"):
        masked_feature_per_token(STUDENT, TEACHER, MASKED, TEXT_OF_TOKEN, 2, over_hidden="total")
