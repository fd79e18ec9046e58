"""Hidden-state objectives on whole texts, and the pooling of flat token states.

Token states are flat: (tokens, hidden) for all real tokens of all texts of a tower, with `text_of_token` saying whose
each one is. There is no padding, so none can leak into a mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from raydistill.errors import ShapeError
from raydistill.objectives.checks import (
    require_choice,
    require_finite_teacher,
    require_index,
    require_matrix,
    require_same_width,
    working_dtype,
)
from raydistill.objectives.weighted import Weighted


def patience(
    student_pooled: Sequence[Tensor], teacher_pooled: Sequence[Tensor], *, reduction: Literal["sum", "mean"] = "sum"
) -> Weighted:
    """Squared distance of the directions of pooled states, averaged over the mapped layers.

        value_t = mean_j || h^S_{t,j} / |h^S_{t,j}| - h^T_{t,map(j)} / |h^T_{t,map(j)}| ||^2

    Only directions count: multiplying a layer's states by a positive number changes nothing.

    Args:
        student_pooled: one (texts, hidden) tensor per mapped student layer, pooled as the caller likes (see
            `pool_tokens`).
        teacher_pooled: the teacher layers they learn from, in the same order; no gradient reaches them.
        reduction: over hidden units. "sum" is the squared distance, in [0, 4]; "mean" divides it by the width, as the
            public code does.

    Returns:
        values (texts,), without unit; weights all 1.

    Raises:
        ShapeError: no layer, unequal numbers of layers, texts or widths.
        NonFiniteLossError: the teacher gave NaN or infinity.
        ConfigError: an unknown reduction.

    Source:
        PKD (Sun et al., EMNLP 2019, arXiv 1908.09355), the loss L_PT, there a sum over texts and layers and here a
        mean, so that neither batch size nor depth changes its weight. There the state of [CLS]; the encoders here pool
        by mean, so the caller pools by mean unless asked otherwise. The choice of layers is the caller's layer map.
    """
    require_choice("reduction", reduction, ("sum", "mean"))
    if not student_pooled or len(student_pooled) != len(teacher_pooled):
        raise ShapeError(
            f"{len(student_pooled)} student layers and {len(teacher_pooled)} teacher layers",
            expected="at least one mapped layer, and one teacher layer for each student layer",
            consequence="layers would be left out or paired with the wrong one",
            remedy="take both lists from the same layer map",
        )
    texts = student_pooled[0].shape[0] if student_pooled[0].ndim else 0
    distances = []
    for student, teacher in zip(student_pooled, teacher_pooled, strict=True):
        student, teacher = comparable_states(student, teacher)
        if student.shape[0] != texts:
            raise ShapeError(
                f"layers with {texts} and {student.shape[0]} texts",
                expected="the same texts in every layer",
                consequence="the mean over layers would mix texts",
                remedy="pool every layer over the same batch",
            )
        require_finite_teacher("pooled states", teacher)
        squares = (unit_vectors(student) - unit_vectors(teacher)).square()
        distances.append(squares.sum(dim=1) if reduction == "sum" else squares.mean(dim=1))
    values = torch.stack(distances).mean(dim=0)
    return Weighted(values, torch.ones_like(values))


def hidden_mse(student: Tensor, teacher: Tensor, text_of_token: Tensor, num_texts: int) -> Weighted:
    """Mean squared difference of token states.

        value_t = mean_{i in t, d} ( h^S_id - h^T_id )^2,   weight_t = |t|

    With these weights `Weighted.mean()` is the mean over all tokens of the batch, whatever text they belong to.

    Args:
        student: (tokens, hidden), projected to the teacher's width where theirs differ.
        teacher: (tokens, hidden) states of the same tokens; no gradient reaches it.
        text_of_token: (tokens,) int64, the text of each token, in any order.
        num_texts: number of texts.

    Returns:
        values (num_texts,), squared units of the states; weights: number of tokens, 0 with value 0 where none.

    Raises:
        ShapeError: shapes or types that do not fit; unequal widths, which need a projection.
        NonFiniteLossError: the teacher gave NaN or infinity.

    Source:
        TinyBERT (Jiao et al., Findings of EMNLP 2020, arXiv 1909.10351), Eq. 8 and 9. There padding counts in the mean; here there is none.
    """
    student, teacher = comparable_states(student, teacher)
    require_index("text_of_token", text_of_token, student.shape[0], num_texts, "(tokens,)")
    require_finite_teacher("token states", teacher)
    return Weighted(*mean_by_text((student - teacher).square().mean(dim=1), text_of_token, num_texts))


def pool_tokens(
    states: Tensor,
    text_of_token: Tensor,
    num_texts: int,
    *,
    how: Literal["mean", "cls", "max"] = "mean",
    first_token: Tensor | None = None,
) -> Tensor:
    """Return one vector per text from the flat states of its tokens.

    Args:
        states: (tokens, hidden).
        text_of_token: (tokens,) int64, the text of each token, in any order.
        num_texts: number of texts; each must have a token.
        how: "mean" or "max" over the text's tokens, or the state of its first token ("cls").
        first_token: (num_texts,) int64, position of each text's first token in `states`; needed for "cls" only.

    Returns:
        (num_texts, hidden), float32 (float64 stays), with gradient.

    Raises:
        ShapeError: shapes that do not fit, a text without tokens, or "cls" without first tokens that belong to their
            texts.
    """
    require_choice("how", how, ("mean", "cls", "max"))
    require_matrix("states", states, "(tokens, hidden)")
    require_index("text_of_token", text_of_token, states.shape[0], num_texts, "(tokens,)")
    states = states.to(working_dtype(states))
    if how == "cls":
        return states[_first_of_each_text(first_token, text_of_token, num_texts)]
    count = tokens_of_each(text_of_token, num_texts)
    # As of an index: to look at what lies on a GPU is to wait for it.
    if not count.is_cuda and not bool((count > 0).all()):
        raise ShapeError(
            f"{int((count == 0).sum())} of {num_texts} texts have no token",
            expected="at least one token in each text",
            consequence="their vectors would be invented",
            remedy="leave empty texts out of the batch, or count num_texts again",
        )
    if how == "mean":
        return sum_by_text(states, text_of_token, num_texts) / count[:, None]
    index = text_of_token[:, None].expand_as(states)
    lowest = states.new_full((num_texts, states.shape[1]), float("-inf"))
    return lowest.scatter_reduce(0, index, states, reduce="amax", include_self=False)


def sum_by_text(tensor: Tensor, text_of_token: Tensor, num_texts: int) -> Tensor:
    """Return the sum over the tokens of each text: (tokens, ...) to (num_texts, ...); 0 for a text without tokens."""
    return tensor.new_zeros((num_texts, *tensor.shape[1:])).index_add(0, text_of_token, tensor)


def tokens_of_each(text_of_token: Tensor, num_texts: int) -> Tensor:
    """Return how many tokens each text has, (num_texts,) int64. `torch.bincount` waits for a GPU, twice."""
    return sum_by_text(torch.ones_like(text_of_token), text_of_token, num_texts)


def mean_by_text(values: Tensor, text_of_token: Tensor, num_texts: int) -> tuple[Tensor, Tensor]:
    """Return the mean over the tokens of each text of (tokens,) values, and their number, both (num_texts,); 0 and 0 for a text without tokens."""
    count = tokens_of_each(text_of_token, num_texts).to(values.dtype)
    return sum_by_text(values, text_of_token, num_texts) / count.clamp(min=1), count


def unit_vectors(vectors: Tensor) -> Tensor:
    """Return the rows divided by their Euclidean lengths; a zero row stays zero, with a finite gradient."""
    squared = vectors.square().sum(dim=1, keepdim=True)
    return vectors / squared.masked_fill(squared == 0, 1.0).sqrt()


def comparable_states(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Check that states (rows, hidden) fit; return them in working precision, the teacher without gradient."""
    require_matrix("student", student, "(rows, hidden)")
    require_matrix("teacher", teacher, "(rows, hidden)")
    require_same_width(student, teacher)
    dtype = working_dtype(student, teacher)
    return student.to(dtype), teacher.detach().to(dtype)


def _first_of_each_text(first_token: Tensor | None, text_of_token: Tensor, num_texts: int) -> Tensor:
    """Check that first_token[t] is a token of text t, and return it."""
    if first_token is None:
        raise ShapeError(
            "how='cls' without first_token",
            expected="(num_texts,) positions of the first tokens",
            consequence="the flat layout does not say where a text begins",
            remedy="pass first_token, or pool by 'mean'",
        )
    require_index("first_token", first_token, num_texts, text_of_token.shape[0], "(num_texts,)")
    if not first_token.is_cuda and not bool(
        (text_of_token[first_token] == torch.arange(num_texts, device=first_token.device)).all()
    ):
        raise ShapeError(
            "first_token names tokens of other texts",
            expected="text_of_token[first_token[t]] == t for every text",
            consequence="texts would be given each other's states",
            remedy="build first_token and text_of_token from the same batch",
        )
    return first_token
