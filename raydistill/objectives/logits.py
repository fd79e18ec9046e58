"""Score objectives: the student scores the candidates of a row as its teacher does.

All take cosines or logits without margin, row by row. For the other direction the caller passes the columns as rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raydistill.objectives.checks import (
    positive_scalar,
    require_finite_teacher,
    require_mask,
    require_matrix,
    require_shape,
    working_dtype,
)
from raydistill.objectives.softmax import only_valid, valid_log_softmax
from raydistill.objectives.weighted import Weighted


def score_mse(student: Tensor, teacher: Tensor, valid: Tensor, *, scale: float | Tensor) -> Weighted:
    """Mean squared difference of the scores of each row's valid candidates, in units of one frozen scale.

        value_b = mean_{c: V_bc} ( scale (z^S_bc - z^T_bc) )^2

    Args:
        student: (batch, candidates) cosines without margin.
        teacher: (batch, candidates) cosines without margin; no gradient reaches it.
        valid: (batch, candidates) bool, True = is compared.
        scale: > 0, the same for both; the teacher's inverse temperature makes the unit that of its logits. Never
            trained.

    Returns:
        values (batch,), squared units of scale * cosine; weights 1, or 0 (and value 0) for a row without a valid
        candidate.

    Raises:
        ShapeError: shapes or types that do not fit.
        NonFiniteLossError: the teacher gave NaN or infinity at a valid entry.

    Source:
        PMD (arXiv 2401.12997), Eq. 4-6, the score loss. The public code compares logits: that pulls the student's
        temperature to the teacher's, puts the margin on the student's side only, and averages over entries that both
        filled with -1e4. Here: cosines, one scale, valid entries.
    """
    student, teacher = comparable_scores(student, teacher, valid)
    frozen = positive_scalar("scale", scale)
    if isinstance(frozen, Tensor):
        frozen = frozen.detach()
    return _mean_square(frozen * (student - teacher), valid)


def logit_mse(
    student: Tensor,
    teacher: Tensor,
    valid: Tensor,
    *,
    student_inverse_temperature: float | Tensor,
    teacher_inverse_temperature: float | Tensor,
) -> Weighted:
    """Mean squared difference of the logits of each row's valid candidates, each model at its own temperature.

        value_b = mean_{c: V_bc} ( k^S z^S_bc - k^T z^T_bc )^2

    Unlike `score_mse` this also pulls the student's temperature to the teacher's; prefer `score_mse` unless the
    published code is to be followed.

    Args:
        student: (batch, candidates) cosines without margin.
        teacher: (batch, candidates) cosines without margin; no gradient reaches it.
        valid: (batch, candidates) bool, True = is compared.
        student_inverse_temperature: k^S > 0; a scalar tensor is trained.
        teacher_inverse_temperature: k^T > 0; no gradient reaches it.

    Returns:
        values (batch,), squared logits; weights 1, or 0 (and value 0) for a row without a valid candidate.

    Raises:
        ShapeError: shapes or types that do not fit.
        NonFiniteLossError: the teacher gave NaN or infinity at a valid entry.

    Source:
        PMD (arXiv 2401.12997), Eq. 4-6, the score loss as its public code computes it. Without the code's margin on the
        student's side, which the teacher's side does not have, and over valid entries only.
    """
    student, teacher = comparable_scores(student, teacher, valid)
    k_student = positive_scalar("student_inverse_temperature", student_inverse_temperature)
    k_teacher = positive_scalar("teacher_inverse_temperature", teacher_inverse_temperature)
    if isinstance(k_teacher, Tensor):
        k_teacher = k_teacher.detach()
    return _mean_square(k_student * student - k_teacher * teacher, valid)


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, valid: Tensor, *, temperature: float) -> Weighted:
    """Kullback-Leibler divergence from the teacher's to the student's distribution over each row's valid candidates.

        value_b = tau^2 sum_{c: V_bc} p_c (log p_c - log q_c),   p = softmax(l^T_b / tau), q = softmax(l^S_b / tau)

    The factor tau^2 keeps the gradient's size independent of tau; for tau to infinity the value tends to 1/(2C) times
    the squared distance of the centred logits. A row with a single valid candidate has value and gradient 0.

    Args:
        student_logits: (batch, candidates), k^S times cosine, without margin.
        teacher_logits: (batch, candidates), k^T times cosine, without margin; no gradient reaches it.
        valid: (batch, candidates) bool, True = is compared.
        temperature: tau > 0, on top of the models' own temperatures.

    Returns:
        values (batch,), nats times tau^2; weights 1, or 0 (and value 0) for a row without a valid candidate.

    Raises:
        ShapeError: shapes or types that do not fit.
        NonFiniteLossError: the teacher gave NaN or infinity at a valid entry.
        ConfigError: a temperature that is not above 0.

    Source:
        Hinton et al. 2015 (arXiv 1503.02531), Section 2. The equal-valued form sum p (log p - log q) + q - p is used:
        at equality its gradient is exactly 0, where that of the plain form is the rounding error of sum p = 1.
    """
    student, teacher = comparable_scores(student_logits, teacher_logits, valid)
    tau = positive_scalar("temperature", temperature)
    log_q = valid_log_softmax(student / tau, valid)
    log_p = valid_log_softmax(teacher / tau, valid)
    # Where nothing is compared both logarithms are 0, so both probabilities are 1 and every part cancels.
    p, q = log_p.exp(), log_q.exp()
    values = tau * tau * (p * (log_p - log_q) + (q - p)).sum(dim=1)
    return Weighted(values, valid.any(dim=1).to(values.dtype))


def comparable_scores(student: Tensor, teacher: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Check both score tables; return them in working precision, 0 where not valid, the teacher without gradient."""
    require_matrix("student", student, "(batch, candidates)")
    require_matrix("teacher", teacher, "(batch, candidates)")
    shape = (student.shape[0], student.shape[1])
    require_shape("teacher", teacher, shape, "the student's (batch, candidates)")
    require_mask("valid", valid, shape, "(batch, candidates)")
    teacher = teacher.detach()
    require_finite_teacher("scores", teacher, valid)
    dtype = working_dtype(student, teacher)
    return only_valid(student.to(dtype), valid), only_valid(teacher.to(dtype), valid)


def _mean_square(difference: Tensor, valid: Tensor) -> Weighted:
    """Return each row's mean square over its valid entries; differences that are not valid must already be 0."""
    count = valid.sum(dim=1)
    values = difference.square().sum(dim=1) / count.clamp(min=1)
    return Weighted(values, torch.gt(count, 0).to(values.dtype))
