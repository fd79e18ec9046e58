"""Directions of token states: what is left of a state when its length does not count."""

from __future__ import annotations

from torch import Tensor

from raydistill.objectives.checks import require_finite_teacher, require_index
from raydistill.objectives.hidden import comparable_states, mean_by_text, unit_vectors
from raydistill.objectives.weighted import Weighted


def direction_distance(student: Tensor, teacher: Tensor, text_of_token: Tensor, num_texts: int) -> Weighted:
    """How far token states point apart.

        value_t = mean_{i in t} ( 1 - cos(h^S_i, h^T_i) ),   weight_t = |t|

    computed as half the squared distance of unit vectors, whose gradient is exactly 0 at equality. With these weights `Weighted.mean()` is the mean over all
    tokens of the batch. A state of zeros has no direction: its value is 1/2, or 0 where both are zeros.

    Args:
        student: (tokens, hidden).
        teacher: (tokens, hidden) states of the same tokens; no gradient reaches it.
        text_of_token: (tokens,) int64, the text of each token, in any order.
        num_texts: number of texts.

    Returns:
        values (num_texts,) in [0, 2], without unit; weights: number of tokens, 0 with value 0 where none.

    Raises:
        ShapeError: shapes or types that do not fit; unequal widths.
        NonFiniteLossError: the teacher gave NaN or infinity.

    Source:
        DistilBERT (Sanh et al. 2019, arXiv 1910.01108), the loss L_cos on the last hidden states.
    """
    student, teacher = comparable_states(student, teacher)
    require_index("text_of_token", text_of_token, student.shape[0], num_texts, "(tokens,)")
    require_finite_teacher("token states", teacher)
    halves = (unit_vectors(student) - unit_vectors(teacher)).square().sum(dim=1) / 2
    return Weighted(*mean_by_text(halves, text_of_token, num_texts))
