"""One case per objective for the contract suite: its tensors, and how to call it on altered but equivalent inputs.

`call(student, teacher, variant)` takes the plain tensors and alters them inside, so that gradients always arrive at the
plain tensors: padded (entries that are not compared are appended), permuted (candidates or tokens reordered), garbage
(NaN wherever nothing is compared), and the edge cases none (nothing valid or masked), lone (only the positive, or one
token), one_row (the first row alone), short (smallest shape).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from raydistill.objectives.bootstrap import bootstrap, boundary
from raydistill.objectives.clipped import clipped_divergence
from raydistill.objectives.contrastive import both_directions, info_nce
from raydistill.objectives.decoupled import decoupled_divergence
from raydistill.objectives.directions import direction_distance
from raydistill.objectives.hidden import hidden_mse, patience, pool_tokens
from raydistill.objectives.logits import kl_divergence, logit_mse, score_mse
from raydistill.objectives.masked import masked_feature_per_token, masked_feature_pooled
from raydistill.objectives.relations import attention_score_mse, attention_share_mse, relation_divergence
from raydistill.objectives.selection import mixed
from raydistill.objectives.sliced import sliced_divergence
from raydistill.objectives.spans import span_correlation
from raydistill.objectives.transport import self_transport
from raydistill.objectives.weighted import Weighted

NAN = float("nan")


@dataclass(frozen=True)
class Case:
    """An objective and how the suite calls it; `absent` names the variants that have no meaning for it."""

    name: str
    function: Callable[..., Weighted]
    shapes: tuple[tuple[int, ...], ...]
    call: Callable[[list[Tensor], list[Tensor], str], Weighted]
    has_teacher: bool = True
    absent: frozenset[str] = frozenset()

    def tensors(self, seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Return fresh leaves: cosines or states in [-1, 1], temperatures (scalars) in [1, 2]."""
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in self.shapes]
        return [(x * 2 - 1 if x.ndim else x + 1).to(dtype).requires_grad_() for x in drawn]


def _pad(table: Tensor, rows: int, columns: int) -> Tensor:
    return torch.nn.functional.pad(table, (0, columns, 0, rows), value=False if table.dtype == torch.bool else NAN)


# --- score tables -------------------------------------------------------------------------------------------------
POSITIVES = torch.tensor([0, 2, 1, 4])
VALID = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
PERMUTATION = torch.tensor([3, 0, 4, 2, 1])


def _table(scores: Tensor, variant: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, valid and positives under a variant."""
    lone = torch.zeros_like(VALID).scatter_(1, POSITIVES[:, None], True)
    match variant:
        case "padded":
            return _pad(scores, 0, 2), _pad(VALID, 0, 2), POSITIVES
        case "permuted":
            return scores[:, PERMUTATION], VALID[:, PERMUTATION], PERMUTATION.argsort()[POSITIVES]
        case "garbage":
            return scores.masked_fill(~VALID, NAN), VALID, POSITIVES
        case "none":
            return scores, torch.zeros_like(VALID), POSITIVES
        case "lone":
            return scores, lone, POSITIVES
        case "one_row":
            return scores[:1], VALID[:1], POSITIVES[:1]
        case "short":
            return scores[:1, :1], VALID[:1, :1], POSITIVES[:1]
    return scores, VALID, POSITIVES


def _info_nce(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    scores, valid, positives = _table(student[0], variant)
    return info_nce(scores, positives, valid, inverse_temperature=student[1], margin=0.02)


def _score_mse(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    scores, valid, _ = _table(student[0], variant)
    return score_mse(scores, _table(teacher[0], variant)[0], valid, scale=3.0)


def _logit_mse(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    scores, valid, _ = _table(student[0], variant)
    return logit_mse(
        scores,
        _table(teacher[0], variant)[0],
        valid,
        student_inverse_temperature=student[1],
        teacher_inverse_temperature=teacher[1],
    )


def _kl_divergence(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    scores, valid, _ = _table(student[0], variant)
    return kl_divergence(scores, _table(teacher[0], variant)[0], valid, temperature=2.0)


SLICES = torch.tensor([[1, 1, 1, 0, 1], [1, 0, 1, 1, 1], [0, 1, 1, 0, 0], [0, 1, 0, 1, 1]], dtype=torch.bool)
"""Rows whose slices leave out what is valid, and hold what is not."""


def _sliced(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    shapes = {
        "padded": _pad(SLICES, 0, 2),
        "permuted": SLICES[:, PERMUTATION],
        "one_row": SLICES[:1],
        "short": SLICES[:1, :1],
    }
    in_slice = shapes.get(variant, SLICES)
    tables = [_table(side[0], variant) for side in (student, teacher)]
    own, theirs = (scores.masked_fill(~in_slice, NAN) if variant == "garbage" else scores for scores, _, _ in tables)
    return sliced_divergence(own, theirs, tables[0][1], in_slice, temperature=2.0)


def _mixed(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    both = [_kl_divergence(student, teacher, variant), _score_mse(student, teacher, variant)]
    shares = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])[: len(both[0].values)]
    return mixed(both, shares.to(both[0].values.dtype))


def _decoupled(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    scores, valid, positives = _table(student[0], variant)
    return decoupled_divergence(scores, _table(teacher[0], variant)[0], positives, valid, temperature=2.0)


def _clipped(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    gates = torch.rand(4, 5, generator=torch.Generator().manual_seed(3)) * 0.9 + 0.1
    scores, valid, _ = _table(student[0], variant)
    return clipped_divergence(scores, _table(teacher[0], variant)[0], _table(gates, variant)[0], valid)


# --- both directions: five examples over three queries and four candidates, with repeats ----------------------------
ROWS, COLUMNS = torch.tensor([0, 1, 0, 2, 1]), torch.tensor([0, 1, 2, 1, 3])
VALID_ROWS = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 0, 1]], dtype=torch.bool)
VALID_COLUMNS = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=torch.bool)
EXTRA_VALID = torch.tensor([[1, 0], [1, 0], [1, 0], [0, 1], [1, 0]], dtype=torch.bool)
SELF_VALID = torch.tensor([1, 0, 1, 1, 0], dtype=torch.bool)


def _never_compared() -> tuple[Tensor, Tensor]:
    """Return (queries, candidates) and (queries, extra) masks of entries that no example compares."""
    table, extra = torch.ones(3, 4, dtype=torch.bool), torch.ones(3, 2, dtype=torch.bool)
    for b, (row, column) in enumerate(zip(ROWS.tolist(), COLUMNS.tolist(), strict=True)):
        table[row] &= ~VALID_ROWS[b]
        table[:, column] &= ~VALID_COLUMNS[b]
        extra[row] &= ~EXTRA_VALID[b]
        table[row, column] = False
    return table, extra


def _both_directions(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    scores, k, own, extra = student
    rows, columns, valid_rows, valid_columns, extra_valid, self_valid = (
        ROWS, COLUMNS, VALID_ROWS, VALID_COLUMNS, EXTRA_VALID, SELF_VALID,
    )  # fmt: skip
    match variant:
        case "padded":
            scores, extra = _pad(scores, 1, 2), _pad(extra, 1, 1)
            valid_rows, valid_columns = _pad(valid_rows, 0, 2), _pad(valid_columns, 0, 1)
            extra_valid = _pad(extra_valid, 0, 1)
        case "permuted":
            order = PERMUTATION[PERMUTATION < 4]
            scores, valid_rows, columns = scores[:, order], valid_rows[:, order], order.argsort()[columns]
        case "garbage":
            table, more = _never_compared()
            scores, extra = scores.masked_fill(table, NAN), extra.masked_fill(more, NAN)
            own = own.masked_fill(~self_valid, NAN)
        case "none" | "lone":
            valid_rows, valid_columns = valid_rows & False, valid_columns & False
            extra_valid, self_valid = extra_valid & False, self_valid & False
        case "one_row":
            rows, columns, own = rows[:1], columns[:1], own[:1]
            valid_rows, valid_columns, extra_valid, self_valid = (
                x[:1] for x in (valid_rows, valid_columns, extra_valid, self_valid)
            )
        case "short":
            return both_directions(
                scores[:1, :1], rows[:1], columns[:1], VALID[:1, :1], VALID[:1, :1], inverse_temperature=k, margin=0.02
            )
    return both_directions(
        scores,
        rows,
        columns,
        valid_rows,
        valid_columns,
        inverse_temperature=k,
        margin=0.02,
        self_scores=own,
        self_valid=self_valid,
        extra_scores=extra,
        extra_valid=extra_valid,
    )


# --- flat token states: text 3 has tokens, but no masked one ---------------------------------------------------------
TEXT_OF_TOKEN = torch.tensor([0, 0, 0, 2, 1, 1, 2, 2, 3])
MASKED = torch.tensor([1, 0, 1, 1, 1, 0, 0, 1, 0], dtype=torch.bool)
TOKEN_ORDER = torch.tensor([4, 8, 0, 3, 7, 1, 2, 6, 5])


def _tokens(states: Tensor, variant: str) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return states, masked, text_of_token and num_texts under a variant."""
    match variant:
        case "padded":
            texts = torch.cat([TEXT_OF_TOKEN, torch.tensor([1, 4, 4])])
            return _pad(states, 3, 0), torch.cat([MASKED, torch.zeros(3, dtype=torch.bool)]), texts, 6
        case "permuted":
            return states[TOKEN_ORDER], MASKED[TOKEN_ORDER], TEXT_OF_TOKEN[TOKEN_ORDER], 4
        case "garbage":
            return states.masked_fill(~MASKED[:, None], NAN), MASKED, TEXT_OF_TOKEN, 4
        case "none":
            return states, torch.zeros_like(MASKED), TEXT_OF_TOKEN, 4
        case "lone":
            return states, torch.arange(9) == 3, TEXT_OF_TOKEN, 4
        case "one_row":
            return states[:3], MASKED[:3], TEXT_OF_TOKEN[:3], 1
        case "short":
            return states[:2], torch.zeros_like(MASKED[:2]), TEXT_OF_TOKEN[:2], 1
    return states, MASKED, TEXT_OF_TOKEN, 4


def _per_token(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    states, masked, texts, num_texts = _tokens(student[0], variant)
    return masked_feature_per_token(states, _tokens(teacher[0], variant)[0], masked, texts, num_texts)


def _pooled(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    states, masked, texts, num_texts = _tokens(student[0], variant)
    return masked_feature_pooled(states, _tokens(teacher[0], variant)[0], masked, texts, num_texts)


def _whole_texts(states: Tensor, variant: str) -> tuple[Tensor, Tensor, int]:
    """Return states, text_of_token and num_texts where every token is compared."""
    if variant == "padded":  # one more text in the batch
        return torch.cat([states, states[:2]]), torch.cat([TEXT_OF_TOKEN, torch.tensor([4, 4])]), 5
    states, _, texts, num_texts = _tokens(states, variant)
    return states, texts, num_texts


def _related(objective: Callable[..., Weighted]) -> Callable[[list[Tensor], list[Tensor], str], Weighted]:
    def call(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
        own, theirs = (tuple(_whole_texts(part, variant)[0] for part in pair) for pair in (student, teacher))
        return objective(own, theirs, *_whole_texts(student[0], variant)[1:], heads=2)

    return call


def _self_transport(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    deep = torch.rand(9, 3, generator=torch.Generator().manual_seed(5)) + 1
    states, texts, num_texts = _whole_texts(student[0], variant)
    return self_transport(states, _whole_texts(deep, variant)[0], texts, num_texts)


def _spans(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    logits, texts, num_texts = _whole_texts(student[0], variant)
    one_span = torch.zeros(len(texts), dtype=torch.int64)
    return span_correlation(logits, _whole_texts(teacher[0], variant)[0], one_span, texts, num_texts)


def _hidden_mse(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    states, texts, num_texts = _whole_texts(student[0], variant)
    return hidden_mse(states, _whole_texts(teacher[0], variant)[0], texts, num_texts)


def _direction_distance(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    states, texts, num_texts = _whole_texts(student[0], variant)
    return direction_distance(states, _whole_texts(teacher[0], variant)[0], texts, num_texts)


def _patience(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    def pooled(layers: list[Tensor]) -> list[Tensor]:
        if variant == "padded":  # one more text in the batch
            texts = torch.cat([TEXT_OF_TOKEN, torch.tensor([4, 4])])
            return [pool_tokens(torch.cat([layer, layer[:2]]), texts, 5) for layer in layers]
        altered = [_tokens(layer, variant) for layer in layers]
        return [pool_tokens(states, texts, num_texts) for states, _, texts, num_texts in altered]

    return patience(pooled(student), pooled(teacher))


WHOLE = frozenset({"garbage", "none", "lone"})
# --- vectors of texts at two times of a path of noise --------------------------------------------------------------
EARLIER, LATER = torch.tensor([0.0, 0.1, 0.2, 0.4]), torch.tensor([0.1, 0.3, 0.25, 0.5])
AT_END = torch.tensor([1, 0, 1, 1], dtype=torch.bool)
ROW_ORDER = torch.tensor([2, 0, 3, 1])


def _bootstrap(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    rows = {"one_row": slice(1), "short": slice(1)}.get(variant, slice(4))
    own, theirs = student[0][rows], teacher[0] if len(teacher[0]) != 4 else teacher[0][rows]
    # The student's later self says what its teacher says, so a student equal to both has nothing to learn.
    return bootstrap(own, theirs.detach(), theirs, EARLIER[rows], LATER[rows])


def _boundary(student: list[Tensor], teacher: list[Tensor], variant: str) -> Weighted:
    own, theirs, at_end = student[0], teacher[0], AT_END
    match variant:
        case "padded":
            own, theirs, at_end = _pad(own, 2, 0), _pad(theirs, 2, 0), torch.cat([AT_END, torch.zeros(2) > 0])
        case "permuted":
            # Rows are texts; those of this one stand in the order in which they were given.
            back = ROW_ORDER.argsort()
            found = boundary(own[ROW_ORDER], theirs[ROW_ORDER], AT_END[ROW_ORDER])
            return Weighted(found.values[back], found.weights[back])
        case "garbage":
            own, theirs = own.masked_fill(~AT_END[:, None], NAN), theirs.masked_fill(~AT_END[:, None], NAN)
        case "none":
            at_end = AT_END & False
        case "lone":
            at_end = torch.arange(4) == 2
        case "one_row" | "short":
            own, theirs, at_end = own[:1], theirs[:1], AT_END[:1]
    return boundary(own, theirs, at_end)


CASES = (
    Case("info_nce", info_nce, ((4, 5), ()), _info_nce, has_teacher=False),
    Case("both_directions", both_directions, ((3, 4), (), (5,), (3, 2)), _both_directions, has_teacher=False),
    Case("score_mse", score_mse, ((4, 5),), _score_mse),
    Case("logit_mse", logit_mse, ((4, 5), ()), _logit_mse),
    Case("kl_divergence", kl_divergence, ((4, 5),), _kl_divergence),
    Case("masked_feature_per_token", masked_feature_per_token, ((9, 3),), _per_token),
    Case("masked_feature_pooled", masked_feature_pooled, ((9, 3),), _pooled),
    Case("sliced_divergence", sliced_divergence, ((4, 5),), _sliced),
    Case("mixed", mixed, ((4, 5),), _mixed),
    Case("decoupled_divergence", decoupled_divergence, ((4, 5),), _decoupled),
    Case("clipped_divergence", clipped_divergence, ((4, 5),), _clipped),
    # Which token is next to which is what it is about.
    Case("span_correlation", span_correlation, ((9, 3),), _spans, absent=WHOLE | {"permuted"}),
    # These compare every text, so nothing can be left out; the pooling is part of the case.
    Case("patience", patience, ((9, 3), (9, 3)), _patience, absent=WHOLE),
    Case("hidden_mse", hidden_mse, ((9, 3),), _hidden_mse, absent=WHOLE),
    Case("direction_distance", direction_distance, ((9, 3),), _direction_distance, absent=WHOLE),
    # Its plan is taken as constant, so its gradient is not that of its value; test_transport.py has what it is.
    Case("self_transport", self_transport, ((9, 3),), _self_transport, has_teacher=False, absent=WHOLE | {"gradcheck"}),
    Case("relation_divergence", relation_divergence, ((9, 4), (9, 4)), _related(relation_divergence), absent=WHOLE),
    Case("bootstrap", bootstrap, ((4, 3),), _bootstrap, absent=WHOLE),
    Case("boundary", boundary, ((4, 3),), _boundary),
    Case("attention_score_mse", attention_score_mse, ((9, 4), (9, 4)), _related(attention_score_mse), absent=WHOLE),
    Case("attention_share_mse", attention_share_mse, ((9, 4), (9, 4)), _related(attention_share_mse), absent=WHOLE),
)


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    """Every objective in turn."""
    chosen: Case = request.param
    return chosen


@pytest.fixture
def cases() -> tuple[Case, ...]:
    """All cases, for the meta-test."""
    return CASES
