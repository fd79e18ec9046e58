"""Masked feature objectives (PMD's MGFD): at masked positions the student's states imitate the teacher's.

Both models read the same corrupted texts; only masked tokens are compared. One call per tower, and the caller adds the
towers. Two forms, because the paper and its code differ: `masked_feature_per_token` (preset paper) and
`masked_feature_pooled` (preset reference).

Token states are flat: (tokens, hidden) for all real tokens of a tower's texts. Without any masked token every weight is
0, so that such texts do not dilute the mean (the public code compares vectors of ones there).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from raydistill.devices import sent
from raydistill.objectives.checks import require_choice, require_finite_teacher, require_index, require_mask
from raydistill.objectives.hidden import comparable_states, sum_by_text, unit_vectors
from raydistill.objectives.weighted import Weighted


def masked_feature_per_token(
    student: Tensor,
    teacher: Tensor,
    masked: Tensor,
    text_of_token: Tensor,
    num_texts: int,
    *,
    over_hidden: Literal["mean", "sum"] = "mean",
) -> Weighted:
    """Squared error of raw states at masked tokens, token by token.

        value_t = mean_{i in M_t} (mean or sum)_d ( h^S_id - h^T_id )^2,   weight_t = |M_t|

    With these weights `Weighted.mean()` is the mean over all masked tokens of the batch, whatever text they belong to.

    Args:
        student: (tokens, hidden) states of the layer compared, usually the last.
        teacher: (tokens, hidden) states of the same tokens; no gradient reaches it.
        masked: (tokens,) bool, True = the token was masked and is compared; may lie on the CPU where the states lie on a GPU.
        text_of_token: (tokens,) int64, the text of each token, in any order; beside `masked`.
        num_texts: number of texts.
        over_hidden: "mean" or "sum" of the squares over hidden units.

    Returns:
        values (num_texts,), squared units of the states; weights: number of masked tokens, 0 with value 0 where none.

    Raises:
        ShapeError: shapes or types that do not fit; unequal widths, which need a projection.
        NonFiniteLossError: the teacher gave NaN or infinity at a masked token.
        ConfigError: an unknown over_hidden.

    Source:
        PMD (arXiv 2401.12997), Eq. 1-2: the mean squared error of the masked tokens' feature vectors. The paper names
        neither layer nor reduction over hidden units; the mean is an MSE as written, the sum is offered.
    """
    require_choice("over_hidden", over_hidden, ("mean", "sum"))
    student, teacher, text_of_token, count = _masked_only(student, teacher, masked, text_of_token, num_texts)
    squares = (student - teacher).square()
    errors = squares.mean(dim=1) if over_hidden == "mean" else squares.sum(dim=1)
    count = count.to(errors.dtype)
    return Weighted(sum_by_text(errors, text_of_token, num_texts) / count.clamp(min=1), count)


def masked_feature_pooled(
    student: Tensor, teacher: Tensor, masked: Tensor, text_of_token: Tensor, num_texts: int
) -> Weighted:
    """Squared error of the directions of the mean masked state, one vector per text.

        value_t = mean_d ( unit(mean_{i in M_t} h^S_i) - unit(mean_{i in M_t} h^T_i) )_d^2

    Bounded by 4 / hidden, hence 3 to 4 orders below a score term: choose its weight accordingly.

    Args:
        student: (tokens, hidden) states of the layer compared, usually the last.
        teacher: (tokens, hidden) states of the same tokens; no gradient reaches it.
        masked: (tokens,) bool, True = the token was masked and is compared; may lie on the CPU where the states lie on a GPU.
        text_of_token: (tokens,) int64, the text of each token, in any order; beside `masked`.
        num_texts: number of texts.

    Returns:
        values (num_texts,), without unit; weights 1, or 0 (and value 0) for a text without a masked token.

    Raises:
        ShapeError: shapes or types that do not fit; unequal widths, which need a projection.
        NonFiniteLossError: the teacher gave NaN or infinity at a masked token.

    Source:
        PMD's public code (arXiv 2401.12997), restated. It compares vectors of ones for texts without a masked token,
        which adds 0 to the sum but a row to the mean; here such texts have weight 0.
    """
    student, teacher, text_of_token, count = _masked_only(student, teacher, masked, text_of_token, num_texts)
    count = count[:, None]
    directions = [
        unit_vectors(sum_by_text(states, text_of_token, num_texts) / count.clamp(min=1))
        for states in (student, teacher)
    ]
    values = (directions[0] - directions[1]).square().mean(dim=1)
    return Weighted(values, (count[:, 0] > 0).to(values.dtype))


def _masked_only(
    student: Tensor, teacher: Tensor, masked: Tensor, text_of_token: Tensor, num_texts: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Check the flat layout; return student states, teacher states and texts of the masked tokens alone, and how many each text has."""
    student, teacher = comparable_states(student, teacher)
    tokens = student.shape[0]
    require_mask("masked", masked, (tokens,), "(tokens,)")
    require_index("text_of_token", text_of_token, tokens, num_texts, "(tokens,)")
    # What is masked is looked up where the mask lies: a GPU would have to be waited for.
    positions = masked.nonzero().squeeze(1)
    owners = text_of_token.index_select(0, positions)
    count = torch.bincount(owners, minlength=num_texts)
    positions, owners, count = (sent(part, student.device) for part in (positions, owners, count))
    student, teacher = student.index_select(0, positions), teacher.index_select(0, positions)
    require_finite_teacher("states of masked tokens", teacher)
    return student, teacher, owners, count
