"""Score objectives against hand numbers and against their limits."""

from __future__ import annotations

import math

import pytest
import torch

from raydistill.errors import ConfigError, ShapeError
from raydistill.objectives.contrastive import info_nce
from raydistill.objectives.logits import kl_divergence, logit_mse, score_mse

STUDENT = torch.tensor([[0.5, 0.1, 0.3], [0.2, 0.2, -0.4]])
TEACHER = torch.tensor([[0.4, 0.4, 0.9], [0.2, 0.1, -0.4]])
VALID = torch.tensor([[True, True, False], [True, True, True]])


def test_score_mse_hand_numbers() -> None:
    """Dividing by all columns instead of the valid ones would make the loss fall with the number of false negatives."""
    result = score_mse(STUDENT, TEACHER, VALID, scale=10.0)
    torch.testing.assert_close(result.values, torch.tensor([(1.0 + 9.0) / 2, (0.0 + 1.0 + 0.0) / 3]))
    assert result.weights.tolist() == [1.0, 1.0]


def test_score_mse_knows_no_margin_and_no_invalid_entry() -> None:
    """Reusing InfoNCE's logits would put the margin between student and teacher, and -1e4 into the mean."""
    student, teacher = STUDENT.clone().requires_grad_(), STUDENT.clone()
    teacher[~VALID] = -1e4
    positives = torch.tensor([0, 1])
    losses = [info_nce(student, positives, VALID, inverse_temperature=20.0, margin=m).mean() for m in (0.0, 0.02)]
    assert losses[0].item() != losses[1].item()
    value = score_mse(student, teacher, VALID, scale=20.0).mean()
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_score_mse_never_trains_its_scale() -> None:
    """A trainable scale would shrink the loss by shrinking the unit it is measured in."""
    student = STUDENT.clone().requires_grad_()
    scale = torch.tensor(10.0, requires_grad=True)
    result = score_mse(student, TEACHER, VALID, scale=scale)
    gradients = torch.autograd.grad(result.mean(), (student, scale), allow_unused=True)
    assert gradients[0] is not None
    assert gradients[1] is None
    torch.testing.assert_close(result.values, score_mse(STUDENT, TEACHER, VALID, scale=10.0).values)


def test_rows_without_a_valid_entry_do_not_count() -> None:
    """An empty row would dilute the mean, or turn it into NaN."""
    valid = VALID.clone()
    valid[1] = False
    results = [
        score_mse(STUDENT, TEACHER, valid, scale=10.0),
        logit_mse(STUDENT, TEACHER, valid, student_inverse_temperature=1.0, teacher_inverse_temperature=2.0),
        kl_divergence(STUDENT, TEACHER, valid, temperature=1.0),
    ]
    for result in results:
        assert result.weights.tolist() == [1.0, 0.0]
        assert result.values[1].item() == 0.0
        assert result.mean().item() == result.values[0].item() > 0


def test_logit_mse_hand_number_and_the_students_temperature() -> None:
    """Swapped temperatures would go unnoticed, because both models start at the same one."""
    k_student = torch.tensor(10.0, requires_grad=True)
    result = logit_mse(STUDENT, TEACHER, VALID, student_inverse_temperature=k_student, teacher_inverse_temperature=20.0)
    first = [(5.0 - 8.0) ** 2, (1.0 - 8.0) ** 2]
    second = [(2.0 - 4.0) ** 2, (2.0 - 2.0) ** 2, (-4.0 + 8.0) ** 2]
    torch.testing.assert_close(result.values, torch.tensor([sum(first) / 2, sum(second) / 3]))
    result.values[0].backward()
    assert k_student.grad.item() == pytest.approx((2 * -3.0 * 0.5 + 2 * -7.0 * 0.1) / 2)


def test_kl_hand_number() -> None:
    """KL(student || teacher), a forgotten tau squared, or tau used as a factor all fall in training too."""
    student = torch.tensor([[0.0, 2 * math.log(3.0), 50.0]])  # with tau = 2: 1/4, 3/4
    teacher = torch.tensor([[0.0, 0.0, -50.0]])  # 1/2, 1/2
    valid = torch.tensor([[True, True, False]])
    expected = 4 * (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75))
    assert kl_divergence(student, teacher, valid, temperature=2.0).values.item() == pytest.approx(expected, rel=1e-5)


def test_kl_equals_torch_on_the_valid_columns() -> None:
    """The form used for its exact zero must be the same function, gradient included."""
    generator = torch.Generator().manual_seed(0)
    student = (20 * torch.randn(3, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    teacher = 20 * torch.randn(3, 5, generator=generator, dtype=torch.float64)
    kept = [0, 2, 3]
    valid = torch.zeros(3, 5, dtype=torch.bool)
    valid[:, kept] = True
    ours = kl_divergence(student, teacher, valid, temperature=4.0).mean()
    log_q, log_p = (student[:, kept] / 4).log_softmax(1), (teacher[:, kept] / 4).log_softmax(1)
    twin = 16 * torch.nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    torch.testing.assert_close(ours, twin, atol=1e-9, rtol=1e-9)
    (a,), (b,) = torch.autograd.grad(ours, student), torch.autograd.grad(twin, student)
    torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_kl_at_infinite_temperature_is_the_error_of_centred_logits() -> None:
    """Without the limit of Hinton's section 2.1 the factor tau squared could be anything."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    valid = torch.tensor([[True, True, True, False], [True, True, True, True]])
    result = kl_divergence(student, teacher, valid, temperature=1e4)
    for row, count in ((0, 3), (1, 4)):
        difference = student[row, :count] - teacher[row, :count]
        limit = ((difference - difference.mean()) ** 2).sum() / (2 * count)
        assert result.values[row].item() == pytest.approx(limit.item(), rel=1e-3)


def test_kl_survives_probabilities_that_underflow() -> None:
    """Far apart logits make 0 * inf, hence NaN, in a careless KL."""
    student = torch.tensor([[0.0, 1000.0]], requires_grad=True)
    value = kl_divergence(student, torch.tensor([[1000.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool), temperature=1.0)
    value.mean().backward()
    assert value.values.item() == pytest.approx(1000.0)
    torch.testing.assert_close(student.grad, torch.tensor([[-1.0, 1.0]]))


def test_refusals() -> None:
    """Wrong masks, vectors of temperatures and tau = 0 would all compute something."""
    with pytest.raises(ShapeError, match="valid"):
        score_mse(STUDENT, TEACHER, VALID[:1], scale=1.0)
    with pytest.raises(ShapeError, match=r"torch\.bool"):
        score_mse(STUDENT, TEACHER, VALID.long(), scale=1.0)
    with pytest.raises(ShapeError, match="scale"):
        score_mse(STUDENT, TEACHER, VALID, scale=torch.ones(3))
    with pytest.raises(ShapeError, match="teacher_inverse_temperature"):
        logit_mse(
            STUDENT, TEACHER, VALID, student_inverse_temperature=1.0, teacher_inverse_temperature=torch.ones(2, 1)
        )
    with pytest.raises(ConfigError, match="temperature is 0"):
        kl_divergence(STUDENT, TEACHER, VALID, temperature=0.0)
