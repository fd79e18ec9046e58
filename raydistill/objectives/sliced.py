"""A divergence between the distributions over a part of the candidates: those that the example's teacher is there for."""

from __future__ import annotations

from torch import Tensor

from raydistill.objectives.checks import require_mask
from raydistill.objectives.logits import kl_divergence
from raydistill.objectives.weighted import Weighted


def sliced_divergence(
    student_logits: Tensor, teacher_logits: Tensor, valid: Tensor, in_slice: Tensor, *, temperature: float
) -> Weighted:
    """Kullback-Leibler divergence from the teacher's to the student's distribution over each row's slice of the valid candidates.

        value_b = tau^2 sum_{c in D_b} p_c (log p_c - log q_c),   D_b = { c: V_bc and S_bc },   p = softmax_{D_b}(l^T_b / tau), q = softmax_{D_b}(l^S_b / tau)

    Candidates outside the slice are not there: neither distribution has anything for them, and no gradient reaches them.

    Args:
        student_logits: (batch, candidates), k^S times cosine, without margin.
        teacher_logits: (batch, candidates), k^T times cosine, without margin; no gradient reaches it.
        valid: (batch, candidates) bool, True = may be compared.
        in_slice: (batch, candidates) bool, True = belongs to the part that the row is of.
        temperature: tau > 0, on top of the models' own temperatures.

    Returns:
        values (batch,), nats times tau^2; weights 1, or 0 (and value 0) for a row without a candidate in its slice.

    Raises:
        ShapeError: shapes or types that do not fit.
        NonFiniteLossError: the teacher gave NaN or infinity at a compared entry.
        ConfigError: a temperature that is not above 0.

    Source:
        ED (arXiv 2311.13811): logits are cut to the classes of the part's teacher before the softmax, in its public code. There a cross-entropy, which differs from
        this by the teacher's own entropy and has the same gradient.
    """
    require_mask("in_slice", in_slice, tuple(valid.shape), "valid's (batch, candidates)")
    return kl_divergence(student_logits, teacher_logits, valid & in_slice, temperature=temperature)
