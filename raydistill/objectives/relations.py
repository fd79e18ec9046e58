"""Attention objectives: the tokens of a text stand to each other as they do for the teacher.

Queries, keys and values are flat: (tokens, hidden) for all real tokens of a tower's texts, the heads side by side, with `text_of_token` saying whose
each one is. There is no padding, so none is attended to. Student and teacher may differ in width, for they are compared by what their tokens make of each
other; only the number of heads must be the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raydistill.errors import ShapeError
from raydistill.objectives.checks import (
    require_finite_teacher,
    require_index,
    require_matrix,
    require_shape,
    working_dtype,
)
from raydistill.objectives.padding import padded_texts
from raydistill.objectives.softmax import only_valid, valid_log_softmax
from raydistill.objectives.weighted import Weighted

Pair = tuple[Tensor, Tensor]
"""What stands to each other: queries and keys; or values, and values again."""


def relation_divergence(student: Pair, teacher: Pair, text_of_token: Tensor, num_texts: int, *, heads: int) -> Weighted:
    """Kullback-Leibler divergence from the teacher's to the student's relations between the tokens of a text.

        value_t = 1 / (H |t|) sum_{h, i in t} sum_{j in t} p_hij (log p_hij - log q_hij),
        p_hi = softmax_{j in t}( a^T_hi . b^T_hj / sqrt(w^T) ), q likewise of the student

    Queries and keys give the attention distributions, values and values the value relation. A text of one token has value 0.

    Args:
        student: a and b, each (tokens, hidden), the heads side by side.
        teacher: a and b, each (tokens, width), of any width; no gradient reaches them.
        text_of_token: (tokens,) int64, the text of each token, in any order.
        num_texts: number of texts.
        heads: H, which must divide both widths; each head's own width w scales its products.

    Returns:
        values (num_texts,), nats; weights 1, or 0 (and value 0) for a text without tokens.

    Raises:
        ShapeError: shapes or types that do not fit, or a width that has no so many equal heads.
        NonFiniteLossError: the teacher gave NaN or infinity.

    Source:
        MiniLM (Wang et al., NeurIPS 2020, arXiv 2002.10957), Eq. 5-9: L_AT and L_VR, of the last layers. MiniLMv2 (arXiv 2012.15828): the same of
        queries with queries, keys with keys and values with values, over any number of relation heads. The form sum p (log p - log q) + q - p is
        used, as in `logits.kl_divergence`, so that the gradient is exactly 0 at equality.
    """
    own, theirs, there = _scores(student, teacher, text_of_token, num_texts, heads)
    pairs = there.expand_as(own)
    log_q, log_p = (_by_rows(scores, pairs) for scores in (own, theirs))
    p, q = log_p.exp(), log_q.exp()
    # Where nothing is compared both logarithms are 0, and every part cancels.
    return _mean_of_queries((p * (log_p - log_q) + (q - p)).sum(3), there)


def attention_score_mse(student: Pair, teacher: Pair, text_of_token: Tensor, num_texts: int, *, heads: int) -> Weighted:
    """Mean squared difference of attention scores before the softmax.

        value_t = 1 / (H |t|^2) sum_{h, i in t, j in t} ( a^S_hi . b^S_hj / sqrt(w^S) - a^T_hi . b^T_hj / sqrt(w^T) )^2

    Args, returns and errors are those of `relation_divergence`; the unit is that of squared scores.

    Source:
        TinyBERT (Jiao et al., Findings of EMNLP 2020, arXiv 1909.10351), Eq. 7: the unnormalised scores, which that paper found to converge faster than
        the distributions. Its public code sets very low scores to 0 and averages over padding; here there is none.
    """
    own, theirs, there = _scores(student, teacher, text_of_token, num_texts, heads)
    squares = (own - theirs).square().masked_fill(~there, 0.0)
    seen = there.sum(3, keepdim=True).clamp(min=1)
    return _mean_of_queries((squares / seen).sum(3), there)


def attention_share_mse(student: Pair, teacher: Pair, text_of_token: Tensor, num_texts: int, *, heads: int) -> Weighted:
    """Mean squared difference of attention probabilities.

        value_t = 1 / (H |t|^2) sum_{h, i in t, j in t} ( q_hij - p_hij )^2,   p and q as in `relation_divergence`

    Args, returns and errors are those of `relation_divergence`; without unit. A text of many tokens has small shares, and so a small value.

    Source:
        DQ-BART (Li et al., ACL 2022, arXiv 2203.11239), the attention part of its distillation loss. Its public code averages over padding too; here there is none. HomoDistil (Liang et al., ICLR 2023, arXiv 2302.09632) has the same term.
    """
    own, theirs, there = _scores(student, teacher, text_of_token, num_texts, heads)
    pairs = there.expand_as(own)
    # Where nothing is compared both logarithms are 0, and so is the difference.
    squares = (_by_rows(own, pairs).exp() - _by_rows(theirs, pairs).exp()).square()
    return _mean_of_queries((squares / there.sum(3, keepdim=True).clamp(min=1)).sum(3), there)


def _scores(
    student: Pair, teacher: Pair, text_of_token: Tensor, num_texts: int, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled products of both, `(texts, heads, longest, longest)`, and `(texts, 1, 1, longest)` True = there is such a token."""
    for name, pair in (("student", student), ("teacher", teacher)):
        _require_pair(name, pair, heads)
    tokens = student[0].shape[0]
    require_shape("teacher", teacher[0], (tokens, teacher[0].shape[1]), "the student's tokens, and any width")
    require_index("text_of_token", text_of_token, tokens, num_texts, "(tokens,)")
    for part in teacher:
        require_finite_teacher("attention", part)
    dtype = working_dtype(*student, *teacher)

    def products(pair: Pair) -> tuple[Tensor, Tensor]:
        width = pair[0].shape[1] // heads
        (a, there), (b, _) = (padded_texts(part.to(dtype), text_of_token, num_texts) for part in pair)
        a, b = (part.view(*part.shape[:2], heads, width).transpose(1, 2) for part in (a, b))
        with torch.autocast(a.device.type, enabled=False):
            return (a / math.sqrt(width)) @ b.transpose(2, 3), there

    own, there = products(student)
    return own, products((teacher[0].detach(), teacher[1].detach()))[0], there[:, None, None, :]


def _by_rows(scores: Tensor, pairs: Tensor) -> Tensor:
    longest = scores.shape[3]
    rows = valid_log_softmax(scores.reshape(-1, longest), pairs.reshape(-1, longest))
    return only_valid(rows.view_as(scores), pairs)


def _mean_of_queries(values: Tensor, there: Tensor) -> Weighted:
    """The mean over heads and the tokens that look, of `(texts, heads, longest)`."""
    looks = there[:, :, 0]
    count = looks.sum(2)
    means = (values.masked_fill(~looks, 0.0).sum(2) / count.clamp(min=1)).mean(1)
    return Weighted(means, torch.gt(count[:, 0], 0).to(means.dtype))


def _require_pair(name: str, pair: Pair, heads: int) -> None:
    for part in pair:
        require_matrix(name, part, "(tokens, hidden)")
        require_shape(name, part, tuple(pair[0].shape), "what it is related to")
    if heads < 1 or pair[0].shape[1] % heads:
        raise ShapeError(
            f"{name} states are {pair[0].shape[1]} wide, to be {heads} heads",
            expected="a width that is a multiple of the number of heads",
            consequence="heads would share units",
            remedy="choose a number of heads that divides the widths of student and teacher",
        )
