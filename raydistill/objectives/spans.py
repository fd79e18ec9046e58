"""Spans: how the candidates that one token points to agree with those of the next token of the same piece of text."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from raydistill.devices import sent
from raydistill.objectives.checks import require_choice, require_finite_teacher, require_index, require_shape
from raydistill.objectives.hidden import comparable_states, mean_by_text
from raydistill.objectives.weighted import Weighted


def span_correlation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    spans: Tensor,
    text_of_token: Tensor,
    num_texts: int,
    *,
    distance: Literal["cosine", "squares"] = "cosine",
) -> Weighted:
    """Distance of student and teacher in the products of neighbouring tokens' distributions over candidates.

        corr_i = p_i * p_{i+1} (entry by entry),   p_i = softmax_c(l_ic),   for tokens i and i + 1 of one span
        value_t = mean_i 1 - cos(corr^S_i, corr^T_i),   or   mean_i sum_c (corr^S_ic - corr^T_ic)^2

    Args:
        student_logits: (tokens, candidates), k^S times the cosine of a token's state with each candidate's vector, texts in order.
        teacher_logits: (tokens, candidates); no gradient reaches it.
        spans: (tokens,) int64, on the states' device or, better, on the CPU; equal for the tokens of a span; below 0 = of none.
        text_of_token: (tokens,) int64, rising, beside them.
        num_texts: number of texts.
        distance: products of two distributions over C candidates are about 1/C^2, and so are their squares of squares; the cosine does not depend on C.

    Returns:
        values (num_texts,), in [0, 1] for the cosine; weights: number of neighbours, 0 with value 0 where all spans have one token.

    Raises:
        ShapeError: shapes or types that do not fit.
        NonFiniteLossError: the teacher gave NaN or infinity.
        ConfigError: an unknown distance.

    Source:
        MGSR (arXiv 2407.10068), span-level correlation (its Eq. 10, after secondary sources), whose distributions are over a vocabulary and whose spans come from a chunker. Here spans are the pieces that a text is
        put together from.
    """
    require_choice("distance", distance, ("cosine", "squares"))
    student, teacher = comparable_states(student_logits, teacher_logits)
    tokens = student.shape[0]
    require_shape("spans", spans, (tokens,), "(tokens,)")
    require_index("text_of_token", text_of_token, tokens, num_texts, "(tokens,)")
    require_finite_teacher("scores of tokens", teacher)
    joined = (spans[1:] == spans[:-1]) & (spans[1:] >= 0) & (text_of_token[1:] == text_of_token[:-1])
    # Where spans lie on the CPU, as a batch has them, nobody waits for a GPU to hear how many tokens these are.
    places = joined.nonzero().flatten()
    first, owners = sent(places, student.device), sent(text_of_token[places], student.device)
    own, theirs = (_products(logits.log_softmax(1), first) for logits in (student, teacher))
    if distance == "cosine":
        # Half the squared distance of unit vectors is 1 - cos, and exactly 0 at equality.
        values = (_units(own) - _units(theirs)).square().sum(1) / 2
    else:
        values = (own.exp() - theirs.exp()).square().sum(1)
    return Weighted(*mean_by_text(values, owners, num_texts))


def _products(log_p: Tensor, first: Tensor) -> Tensor:
    """Logarithms of the products of each of these tokens' distributions with the next one's."""
    return log_p[first] + log_p[first + 1]


def _units(logs: Tensor) -> Tensor:
    """Vectors of length 1 from the logarithms of their entries, however small these are."""
    return (logs - (2 * logs).logsumexp(1, keepdim=True) / 2).exp()
