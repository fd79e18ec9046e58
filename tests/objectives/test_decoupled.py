"""DKD: the divergence taken apart, put together again, and by hand."""

from __future__ import annotations

import math

import pytest
import torch

from raydistill.objectives.decoupled import decoupled_divergence
from raydistill.objectives.logits import kl_divergence

GENERATOR = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 6, 9, generator=GENERATOR) * 4
VALID = torch.rand(6, 9, generator=GENERATOR) > 0.3
POSITIVES = torch.tensor([0, 3, 8, 2, 2, 5])


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
def test_parts_make_up_the_plain_divergence(dtype: torch.dtype, apart: float) -> None:
    """TCKD + (1 - p_y) NCKD = KL: a target that is still among the rest, or a rest that is not a distribution."""
    valid, student, teacher = VALID.scatter(1, POSITIVES[:, None], True), STUDENT.to(dtype), TEACHER.to(dtype)
    for tau in (1.0, 4.0):
        target, rest = (
            decoupled_divergence(
                student, teacher, POSITIVES, VALID, temperature=tau, target_weight=weights[0], rest_weight=weights[1]
            ).values
            for weights in ((1.0, 0.0), (0.0, 1.0))
        )
        p = (teacher / tau).masked_fill(~valid, float("-inf")).softmax(1).gather(1, POSITIVES[:, None])[:, 0]
        whole = kl_divergence(student, teacher, valid, temperature=tau).values
        assert whole.dtype == dtype
        torch.testing.assert_close(target + (1 - p) * rest, whole, atol=min(3e-6, apart), rtol=apart)


def test_decoupled_hand_numbers() -> None:
    """Weights that change places, or a forgotten tau squared."""
    log = math.log
    # Teacher 1/2, 1/4, 1/4; student 1/4, 1/2, 1/4; the first is right; the fourth is not compared.
    teacher = torch.tensor([[2 * log(2.0), 0.0, 0.0, 99.0]])
    student = torch.tensor([[0.0, 2 * log(2.0), 0.0, -99.0]])
    valid = torch.tensor([[False, True, True, False]])
    result = decoupled_divergence(
        student, teacher, torch.tensor([0]), valid, temperature=2.0, target_weight=3.0, rest_weight=5.0
    )
    target = 0.5 * log(2.0) + 0.5 * log(2 / 3)
    rest = 0.5 * log(3 / 4) + 0.5 * log(3 / 2)
    assert result.values.item() == pytest.approx(4 * (3 * target + 5 * rest), rel=1e-5)


def test_a_confident_teacher_still_orders_the_rest() -> None:
    """What the method is for: where the teacher is nearly sure, the plain divergence hardly sees its opinion of the others."""
    teacher = torch.tensor([[20.0, 2.0, 0.0, -2.0]])
    student = torch.tensor([[20.0, -2.0, 0.0, 2.0]])
    everyone, right = torch.ones(1, 4, dtype=torch.bool), torch.tensor([0])
    assert kl_divergence(student, teacher, everyone, temperature=1.0).values.item() < 1e-6
    assert decoupled_divergence(student, teacher, right, everyone, temperature=1.0).values.item() > 10


@pytest.mark.parametrize("sure", [20.0, 5000.0])
def test_target_is_no_part_of_the_rest_however_sure_the_teacher_is(sure: float) -> None:
    """A logit of -1000 in the target's place, as in the public code: what is 5000 above the others then still outweighs all of them."""
    others, everyone, right = torch.tensor([2.0, 0.0, -2.0]), torch.ones(1, 4, dtype=torch.bool), torch.tensor([0])
    teacher = torch.cat([torch.tensor([sure]), others])[None].double()
    student = torch.cat([torch.tensor([sure]), -others])[None].double()
    found = decoupled_divergence(student, teacher, right, everyone, temperature=1.0, target_weight=0.0).values
    log_p, log_q = (rest.double().log_softmax(0) for rest in (others, -others))
    assert found.item() == pytest.approx(8 * float((log_p.exp() * (log_p - log_q)).sum()), rel=1e-12)
