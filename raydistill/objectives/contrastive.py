"""InfoNCE: how well a query finds its tail among the other candidates of the batch, and a tail its query.

The only objective with a margin, and one of two (with `logit_mse`) through which a temperature is trained.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from raydistill.errors import ShapeError
from raydistill.objectives.checks import (
    positive_scalar,
    require_choice,
    require_index,
    require_mask,
    require_matrix,
    require_shape,
    working_dtype,
)
from raydistill.objectives.softmax import only_valid
from raydistill.objectives.weighted import Weighted


def info_nce(
    scores: Tensor,
    positives: Tensor,
    valid: Tensor,
    *,
    inverse_temperature: float | Tensor,
    margin: float,
    column_weight: Tensor | None = None,
) -> Weighted:
    """Cross entropy of each row's positive among the row's valid columns.

        value_b = -log softmax_c( w_c k (z_bc - m [c = y_b]) )[y_b],   c over valid columns and y_b

    Not zero when the student equals a teacher: there is no teacher here. A row in which only the positive is valid has
    value and gradient 0.

    Args:
        scores: (batch, candidates) cosines without margin.
        positives: (batch,) int64, column of the positive y_b.
        valid: (batch, candidates) bool, True = may be compared. The positive is compared whatever stands there.
        inverse_temperature: k > 0; a scalar tensor is trained.
        margin: m, in units of cosine, taken from the positive's cosine only.
        column_weight: (candidates,) factor w_c on the logits of a column; SimKGC gives tails of earlier batches 0.5.
            None = 1.

    Returns:
        values (batch,) in nats, weights all 1.

    Raises:
        ShapeError: shapes or types that do not fit.

    Source:
        SimKGC (Wang et al., ACL 2022, arXiv 2203.02167), InfoNCE with additive margin, with its public code's weight on
        earlier batches. There, columns that may not be compared get the logit -1e4; here they leave the softmax, which
        is the same sum without a number that depends on the format.
    """
    require_matrix("scores", scores, "(batch, candidates)")
    batch, candidates = scores.shape
    require_index("positives", positives, batch, candidates, "(batch,)")
    require_mask("valid", valid, (batch, candidates), "(batch, candidates)")
    k = positive_scalar("inverse_temperature", inverse_temperature)
    compared = valid.scatter(1, positives[:, None], True)
    cosines = only_valid(scores.to(working_dtype(scores)), compared)
    logits = cosines.scatter_add(1, positives[:, None], cosines.new_full((batch, 1), -margin)) * k
    if column_weight is not None:
        require_shape("column_weight", column_weight, (candidates,), "(candidates,)")
        logits = logits * column_weight.to(logits.dtype)
    # No row is empty: its positive is compared.
    values = cross_entropy(logits.masked_fill(~compared, -torch.inf), positives, reduction="none")
    return Weighted(values, torch.ones_like(values))


def both_directions(
    scores: Tensor,
    rows: Tensor,
    columns: Tensor,
    valid_rows: Tensor,
    valid_columns: Tensor,
    *,
    inverse_temperature: float | Tensor,
    margin: float,
    reduction: Literal["mean", "sum"] = "mean",
    self_scores: Tensor | None = None,
    self_valid: Tensor | None = None,
    extra_scores: Tensor | None = None,
    extra_valid: Tensor | None = None,
    extra_weight: float = 0.5,
) -> Weighted:
    """InfoNCE of every example, from query to tail and from tail to query, with each distinct text encoded once.

    Example b's row is scores[rows[b]] with the positive columns[b]; its column is scores[:, columns[b]] with the
    positive rows[b]. This equals the batch x batch form on one encoding per example in which repeated queries and tails
    are marked as not valid.

    Args:
        scores: (queries, candidates) cosines of the distinct queries and the distinct candidates, without margin.
        rows: (batch,) int64, the query of each example.
        columns: (batch,) int64, the candidate that is each example's tail.
        valid_rows: (batch, candidates) bool, True = example's query may be compared with this candidate.
        valid_columns: (batch, queries) bool, True = example's tail may be compared with this query.
        inverse_temperature: k > 0; a scalar tensor is trained.
        margin: in units of cosine, from the positive's cosine only.
        reduction: "mean" of the two directions, so that a term's weight keeps its meaning; "sum" as in the public code
            of SimKGC and PMD.
        self_scores: (batch,) cosine of the query with its own head, one more negative for the row direction (SimKGC's
            self-negative).
        self_valid: (batch,) bool, True = the head is not itself an answer. None = all.
        extra_scores: (queries, extra) cosines with tails of earlier batches, more negatives for the row direction.
        extra_valid: (batch, extra) bool, True = may be compared. None = all.
        extra_weight: factor on the logits of the extra columns.

    Returns:
        values (batch,) in nats, weights all 1.

    Raises:
        ShapeError: shapes or types that do not fit.
        ConfigError: an unknown reduction.

    Source:
        SimKGC (arXiv 2203.02167) and its public code: symmetric cross entropy, self-negatives and earlier batches in
        the row direction only. The code sums the directions and encodes repeated texts again; the mean is our default.
    """
    require_matrix("scores", scores, "(queries, candidates)")
    require_choice("reduction", reduction, ("mean", "sum"))
    queries, candidates = scores.shape
    batch = rows.shape[0] if rows.ndim else 0
    require_index("rows", rows, batch, queries, "(batch,)")
    require_index("columns", columns, batch, candidates, "(batch,)")
    require_mask("valid_rows", valid_rows, (batch, candidates), "(batch, candidates)")
    require_mask("valid_columns", valid_columns, (batch, queries), "(batch, queries)")
    _refuse_lone_mask("extra", extra_scores, extra_valid)
    _refuse_lone_mask("self", self_scores, self_valid)
    # Not by brackets, whose way back sorts on a GPU; this one's adds in any order there.
    parts, masks, weights = [scores.index_select(0, rows)], [valid_rows], [1.0]
    if extra_scores is not None:
        require_matrix("extra_scores", extra_scores, "(queries, extra)")
        require_shape("extra_scores", extra_scores, (queries, extra_scores.shape[1]), "(queries, extra)")
        parts.append(extra_scores.index_select(0, rows))
        masks.append(_mask_or_all("extra_valid", extra_valid, parts[-1], "(batch, extra)"))
        weights.append(extra_weight)
    if self_scores is not None:
        require_shape("self_scores", self_scores, (batch,), "(batch,)")
        parts.append(self_scores[:, None])
        masks.append(_mask_or_all("self_valid", self_valid, self_scores, "(batch,)")[:, None])
        weights.append(1.0)
    forward = info_nce(
        _side_by_side(parts),
        columns,
        torch.cat(masks, dim=1),
        inverse_temperature=inverse_temperature,
        margin=margin,
        column_weight=_weight_of_each_column(parts, weights),
    )
    backward = info_nce(
        scores.index_select(1, columns).T, rows, valid_columns, inverse_temperature=inverse_temperature, margin=margin
    )
    share = 0.5 if reduction == "mean" else 1.0
    return Weighted(share * (forward.values + backward.values), forward.weights)


def _mask_or_all(name: str, mask: Tensor | None, like: Tensor, meaning: str) -> Tensor:
    """Return the mask after checking it, or a mask that is True everywhere."""
    if mask is None:
        return torch.ones_like(like, dtype=torch.bool)
    require_mask(name, mask, tuple(like.shape), meaning)
    return mask


def _refuse_lone_mask(kind: str, scores: Tensor | None, mask: Tensor | None) -> None:
    """Refuse a mask whose scores were forgotten: the negatives would silently be missing."""
    if scores is None and mask is not None:
        raise ShapeError(
            f"{kind}_valid without {kind}_scores",
            expected=f"both {kind}_scores and {kind}_valid, or neither",
            consequence="the loss would have fewer negatives than asked for",
            remedy=f"pass {kind}_scores, or leave {kind}_valid out",
        )


def _side_by_side(parts: list[Tensor]) -> Tensor:
    """Return the parts as one table; parts of different types (encoded under different precisions) are converted."""
    dtype = working_dtype(*parts)
    return torch.cat([part.to(dtype) for part in parts], dim=1)


def _weight_of_each_column(parts: list[Tensor], weights: list[float]) -> Tensor | None:
    """Return (columns,) the weight of the part each column came from, or None when all are 1."""
    if all(weight == 1.0 for weight in weights):
        return None
    return torch.cat([part.new_full((part.shape[1],), weight) for part, weight in zip(parts, weights, strict=True)])
