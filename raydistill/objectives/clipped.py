"""Clipped scores: the student follows its teacher on the dense part of its distribution, and the rest is left out."""

from __future__ import annotations

import torch
from torch import Tensor

from raydistill.errors import ConfigError
from raydistill.objectives.checks import require_index, require_shape, working_dtype
from raydistill.objectives.logits import comparable_scores
from raydistill.objectives.softmax import only_valid, valid_log_softmax
from raydistill.objectives.weighted import Weighted

SHARPNESS, SHIFT = 0.02, 4.0
"""Width of a gate's edge in shares of a row's ranks; and how many such widths it lies outside of the bound, so that what stands at the bound is let through."""


def clipped_divergence(student_logits: Tensor, teacher_logits: Tensor, gates: Tensor, valid: Tensor) -> Weighted:
    """Divergence of both distributions after each candidate was let through as far as its gate is open.

        value_b = sum_{c: V_bc} p_c (log p_c - log q_c),   p_c = g_c exp(l^T_c) / sum_c' g_c' exp(l^T_c'),   q likewise of the student

    With all gates at 1 it is `logits.kl_divergence` at temperature 1. Trained by this value alone, gates close until one candidate is left; `kept_mass` is what to hold them open with.

    Args:
        student_logits: (batch, candidates), k^S times cosine, without margin.
        teacher_logits: (batch, candidates), k^T times cosine, without margin; no gradient reaches it.
        gates: (batch, candidates) in (0, 1], with gradient; see `rank_gates`.
        valid: (batch, candidates) bool, True = is compared.

    Returns:
        values (batch,), nats; weights 1, or 0 (and value 0) for a row without a valid candidate.

    Raises:
        ShapeError: shapes or types that do not fit.
        NonFiniteLossError: the teacher gave NaN or infinity at a valid entry.

    Source:
        MGSR (arXiv 2407.10068), DAC-KL, after secondary sources: the classes between two quantiles of the teacher's probabilities are kept. How a gradient passes the clip is ours: soft gates.
    """
    student, teacher = comparable_scores(student_logits, teacher_logits, valid)
    require_shape("gates", gates, tuple(valid.shape), "the student's (batch, candidates)")
    opened = only_valid(gates.to(working_dtype(student)).log(), valid)
    log_p, log_q = (valid_log_softmax(scores + opened, valid) for scores in (teacher, student))
    p, q = log_p.exp(), log_q.exp()
    values = (p * (log_p - log_q) + (q - p)).sum(dim=1)
    return Weighted(values, valid.any(dim=1).to(values.dtype))


def rank_gates(ranks: Tensor, positives: Tensor, valid: Tensor, upper: Tensor, lower: Tensor, *, least: int) -> Tensor:
    """How far each candidate is let through: those whose rank lies between two bounds, softly; the positive and the `least` highest always.

    Args:
        ranks: (batch, candidates) float, each valid candidate's place by the teacher, from 0; see `teacher_ranks`.
        positives: (batch,) int64, column of the positive.
        valid: (batch, candidates) bool.
        upper: (batch,) in [0, 1], share of the row's ranks above which candidates are left out.
        lower: (batch,) in [0, 1], share below which they are.
        least: how many of the highest are kept whatever the bounds say.

    Returns:
        (batch, candidates) in (0, 1], with gradient at the bounds; 1 where nothing is compared.

    Raises:
        ShapeError: shapes or types that do not fit.
        ConfigError: `least` below 1.
    """
    batch, candidates = valid.shape
    require_index("positives", positives, batch, candidates, "(batch,)")
    for name, bound in (("upper", upper), ("lower", lower)):
        require_shape(name, bound, (batch,), "(batch,)")
    if least < 1:
        raise ConfigError(f"least is {least}", expected="at least 1", remedy="keep one candidate or more")
    shares = ranks / valid.sum(1, keepdim=True).clamp(min=1)
    below = torch.sigmoid((lower[:, None] - shares) / SHARPNESS + SHIFT)
    above = torch.sigmoid((shares - upper[:, None]) / SHARPNESS + SHIFT)
    always = (ranks < least) | ~valid | torch.zeros_like(valid).scatter_(1, positives[:, None], True)
    # No gate is quite shut: a logarithm of 0 has no gradient but NaN.
    gates = (below * above).clamp(min=torch.finfo(below.dtype).tiny)
    return torch.where(always, torch.ones_like(gates), gates)


def teacher_ranks(teacher_logits: Tensor, valid: Tensor) -> Tensor:
    """Each valid candidate's place in its row by the teacher's score, from 0, `(batch, candidates)` float; equal scores in order of columns."""
    last = teacher_logits.detach().float().masked_fill(~valid, float("-inf"))
    order = torch.argsort(last, dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(last).scatter_(1, order, places.to(last.dtype))


def kept_mass(teacher_logits: Tensor, gates: Tensor, valid: Tensor) -> Tensor:
    """Share of the teacher's probability that the gates let through, `(batch,)`, with gradient at the gates; 0 in a row without a valid candidate."""
    log_p = valid_log_softmax(only_valid(teacher_logits.detach().to(gates.dtype), valid), valid)
    return (log_p.exp() * gates).masked_fill(~valid, 0.0).sum(1)
