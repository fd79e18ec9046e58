"""Decoupled scores: what the teacher thinks of the right candidate, and how it orders the wrong ones, each with a weight of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from raydistill.objectives.checks import positive_scalar, require_index
from raydistill.objectives.logits import comparable_scores
from raydistill.objectives.softmax import valid_log_softmax
from raydistill.objectives.weighted import Weighted


def decoupled_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    positives: Tensor,
    valid: Tensor,
    *,
    temperature: float,
    target_weight: float = 1.0,
    rest_weight: float = 8.0,
) -> Weighted:
    """Divergence of the positive's probability, and of the distribution over the other candidates.

        value_b = tau^2 ( alpha TCKD_b + beta NCKD_b )
        TCKD_b = KL( (p_y, 1 - p_y) || (q_y, 1 - q_y) )
        NCKD_b = sum_{c: V_bc, c != y} p'_c (log p'_c - log q'_c),   p' = softmax over the candidates that are not y

    with p = softmax(l^T / tau) and q = softmax(l^S / tau) over the valid candidates and y. TCKD + (1 - p_y) NCKD is the plain divergence, in which a
    confident teacher's opinion of the wrong candidates hardly counts. A row in which only the positive is valid has value and gradient 0.

    Args:
        student_logits: (batch, candidates), k^S times cosine, without margin.
        teacher_logits: (batch, candidates), k^T times cosine, without margin; no gradient reaches it.
        positives: (batch,) int64, column of the positive y_b, which is compared whatever `valid` says of it.
        valid: (batch, candidates) bool, True = is compared.
        temperature: tau > 0, on top of the models' own temperatures.
        target_weight: alpha.
        rest_weight: beta.

    Returns:
        values (batch,), nats times tau^2; weights all 1.

    Raises:
        ShapeError: shapes or types that do not fit.
        NonFiniteLossError: the teacher gave NaN or infinity at a compared entry.
        ConfigError: a temperature that is not above 0.

    Source:
        DKD (Zhao et al., CVPR 2022, arXiv 2203.08679), Eq. 5-7; alpha 1, beta 8 and tau 4 are its public code's defaults. There the target leaves the second
        softmax by a logit of -1000; here it is not in it.
    """
    require_index("positives", positives, len(valid), valid.shape[-1], "(batch,)")
    is_positive = torch.zeros_like(valid).scatter_(1, positives[:, None], True)
    student, teacher = comparable_scores(student_logits, teacher_logits, valid | is_positive)
    tau, rest = positive_scalar("temperature", temperature), valid & ~is_positive
    p, q = (_Parts(scores / tau, is_positive, rest) for scores in (teacher, student))
    target = _divergence(p.target, q.target) + _divergence(p.others, q.others)
    among = _divergence(p.rest, q.rest).sum(1)
    return Weighted(tau * tau * (target_weight * target + rest_weight * among), torch.ones_like(target))


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Summands of a divergence whose gradient is exactly 0 at equality."""
    p, q = log_p.exp(), log_q.exp()
    return p * (log_p - log_q) + (q - p)


class _Parts:
    """Log-probabilities of a distribution's parts.

    Attributes:
        target: (batch,) of the positive.
        others: (batch,) of all other candidates together; 0 where there is none.
        rest: (batch, candidates) of each of these among themselves; 0 elsewhere.
    """

    def __init__(self, logits: Tensor, is_positive: Tensor, rest: Tensor) -> None:
        whole = valid_log_softmax(logits, is_positive | rest)
        some = rest.any(1)
        self.rest = valid_log_softmax(logits, rest)
        self.target = whole.masked_fill(~is_positive, 0.0).sum(1)
        # A row of -inf alone would have no gradient but NaN.
        outside = (~rest & some[:, None]) | (~rest & ~is_positive)
        self.others = whole.masked_fill(outside, float("-inf")).logsumexp(1).masked_fill(~some, 0.0)
