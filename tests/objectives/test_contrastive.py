"""InfoNCE against hand numbers, against torch's cross entropy, and against the form with one encoding per example."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from raydistill.errors import ConfigError, ShapeError
from raydistill.objectives.contrastive import both_directions, info_nce

ROWS, COLUMNS = torch.tensor([0, 1, 0, 2, 1, 2]), torch.tensor([0, 1, 2, 1, 3, 4])
QUERIES, CANDIDATES = 3, 5


def leaves(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Return float64 leaves, so that a twin may be held to 1e-9."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def masked_cross_entropy(logits: Tensor, positives: Tensor, valid: Tensor) -> Tensor:
    """The obvious form: fill with -inf, call torch."""
    return cross_entropy(logits.masked_fill(~valid, float("-inf")), positives, reduction="none")


def test_info_nce_hand_number() -> None:
    """A margin of the wrong sign, or a temperature the wrong way round, still gives a falling loss."""
    scores = torch.tensor([[0.52, 0.5, 0.9]])
    valid = torch.tensor([[False, True, False]])  # the positive is compared all the same
    result = info_nce(scores, torch.tensor([0]), valid, inverse_temperature=20.0, margin=0.02)
    assert result.values.item() == pytest.approx(math.log(2), rel=1e-5)
    without = info_nce(scores, torch.tensor([0]), valid, inverse_temperature=20.0, margin=0.0)
    assert without.values.item() == pytest.approx(math.log(1 + math.exp(-0.4)), rel=1e-5)


def test_info_nce_equals_torch_cross_entropy() -> None:
    """Our own masked softmax would differ from the plain one in value or gradient."""
    (scores,) = leaves(0, (4, 6))
    log_k = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    positives = torch.tensor([5, 0, 2, 2])
    valid = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) > 0.4
    weight = torch.tensor([1, 1, 1, 1, 0.5, 0.5], dtype=torch.float64)
    ours = info_nce(scores, positives, valid, inverse_temperature=log_k.exp(), margin=0.02, column_weight=weight).values
    one_hot = torch.nn.functional.one_hot(positives, 6).double()
    logits = log_k.exp() * (scores - 0.02 * one_hot) * weight
    twin = masked_cross_entropy(logits, positives, valid | one_hot.bool())
    torch.testing.assert_close(ours, twin, atol=1e-9, rtol=0)
    for a, b in zip(
        torch.autograd.grad(ours.mean(), (scores, log_k)),
        torch.autograd.grad(twin.mean(), (scores, log_k)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_a_row_with_only_its_positive_has_no_loss_and_no_gradient() -> None:
    """A query all of whose other candidates are known true would still push scores about."""
    scores = torch.tensor([[0.3, -0.2, 0.9]], requires_grad=True)
    k = torch.tensor(20.0, requires_grad=True)
    valid = torch.zeros(1, 3, dtype=torch.bool)
    value = info_nce(scores, torch.tensor([1]), valid, inverse_temperature=k, margin=0.02).values.sum()
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(scores.grad, torch.zeros(1, 3))
    assert k.grad.item() == 0.0


def test_a_forbidden_candidate_has_no_share_even_beside_very_low_scores() -> None:
    """A filler of -1e4 outweighs real logits below it, so a known true candidate would dominate the row."""
    scores = torch.tensor([[-1.0, -1.0, 1.0]])
    valid = torch.tensor([[True, True, False]])
    result = info_nce(scores, torch.tensor([0]), valid, inverse_temperature=1e5, margin=0.0)
    assert result.values.item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_both_directions_equals_one_encoding_per_example(reduction: str) -> None:
    """Encoding each text once would be faster but train something else than the batch x batch form."""
    queries, candidates = leaves(0, (QUERIES, 4), (CANDIDATES, 4))
    k = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    known = {(q, c) for q, c in zip(ROWS.tolist(), COLUMNS.tolist(), strict=True)} | {(0, 3), (1, 4)}
    may = torch.tensor([[(q, c) not in known for c in range(CANDIDATES)] for q in range(QUERIES)])
    ours = both_directions(
        queries @ candidates.T,
        ROWS,
        COLUMNS,
        may[ROWS],
        may[:, COLUMNS].T,
        inverse_temperature=k,
        margin=0.02,
        reduction=reduction,
    ).values

    batch = len(ROWS)
    square = queries[ROWS] @ candidates[COLUMNS].T  # (batch, batch), repeated texts and all
    first_column = torch.tensor([COLUMNS.tolist().index(c) == i for i, c in enumerate(COLUMNS.tolist())])
    first_row = torch.tensor([ROWS.tolist().index(q) == i for i, q in enumerate(ROWS.tolist())])
    allowed, diagonal = may[ROWS][:, COLUMNS], torch.eye(batch, dtype=torch.bool)
    logits = k * (square - 0.02 * diagonal.double())
    positives = torch.arange(batch)
    forward = masked_cross_entropy(logits, positives, (allowed & first_column) | diagonal)
    backward = masked_cross_entropy(logits.T, positives, (allowed.T & first_row) | diagonal)
    twin = (forward + backward) * (0.5 if reduction == "mean" else 1.0)

    torch.testing.assert_close(ours, twin, atol=1e-9, rtol=0)
    for a, b in zip(
        torch.autograd.grad(ours.mean(), (queries, candidates, k)),
        torch.autograd.grad(twin.mean(), (queries, candidates, k)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_self_and_earlier_negatives_join_the_row_direction_only() -> None:
    """Extra columns with the wrong weight, the margin, or in the wrong direction would go unnoticed."""
    scores, own, extra = leaves(0, (QUERIES, CANDIDATES), (6,), (QUERIES, 2))
    valid_rows, valid_columns = torch.ones(6, CANDIDATES, dtype=torch.bool), torch.ones(6, QUERIES, dtype=torch.bool)
    self_valid = torch.tensor([True, True, False, True, False, True])
    extra_valid = torch.rand(6, 2, generator=torch.Generator().manual_seed(2)) > 0.5
    ours = both_directions(
        scores,
        ROWS,
        COLUMNS,
        valid_rows,
        valid_columns,
        inverse_temperature=5.0,
        margin=0.1,
        reduction="sum",
        self_scores=own,
        self_valid=self_valid,
        extra_scores=extra,
        extra_valid=extra_valid,
        extra_weight=0.25,
    ).values
    row_margin = 0.1 * torch.nn.functional.one_hot(COLUMNS, CANDIDATES).double()
    wide = torch.cat([5 * (scores[ROWS] - row_margin), 0.25 * 5 * extra[ROWS], 5 * own[:, None]], dim=1)
    forward = masked_cross_entropy(wide, COLUMNS, torch.cat([valid_rows, extra_valid, self_valid[:, None]], dim=1))
    tall = 5 * (scores.T[COLUMNS] - 0.1 * torch.nn.functional.one_hot(ROWS, QUERIES).double())
    twin = forward + masked_cross_entropy(tall, ROWS, valid_columns)
    torch.testing.assert_close(ours, twin, atol=1e-9, rtol=0)
    for a, b in zip(
        torch.autograd.grad(ours.sum(), (scores, own, extra)),
        torch.autograd.grad(twin.sum(), (scores, own, extra)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_missing_masks_mean_that_everything_is_compared() -> None:
    """Self-negatives given without a mask would be dropped, as if they had been switched off."""
    scores, own, extra = (x.detach() for x in leaves(0, (QUERIES, CANDIDATES), (6,), (QUERIES, 2)))
    masks = torch.ones(6, CANDIDATES, dtype=torch.bool), torch.ones(6, QUERIES, dtype=torch.bool)
    common = {"inverse_temperature": 5.0, "margin": 0.0, "self_scores": own, "extra_scores": extra}
    default = both_directions(scores, ROWS, COLUMNS, *masks, **common).values
    spelt = both_directions(
        scores,
        ROWS,
        COLUMNS,
        *masks,
        **common,
        self_valid=torch.ones(6, dtype=torch.bool),
        extra_valid=torch.ones(6, 2, dtype=torch.bool),
    ).values
    without = both_directions(scores, ROWS, COLUMNS, *masks, inverse_temperature=5.0, margin=0.0).values
    assert torch.equal(default, spelt)
    assert bool((default > without).all())


@pytest.mark.parametrize(
    "change",
    [
        {"positives": torch.tensor([0])},
        {"positives": torch.tensor([0, 3])},
        {"positives": torch.tensor([0, -1])},
        {"positives": torch.tensor([0, 1], dtype=torch.int32)},
        {"valid": torch.ones(2, 1, dtype=torch.bool)},
        {"valid": torch.ones(2, 3)},
        {"inverse_temperature": torch.ones(3)},
        {"column_weight": torch.ones(1)},
        {"scores": torch.ones(3)},
        {"scores": torch.ones(2, 3, dtype=torch.int64)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_inputs_that_would_broadcast_are_refused(change: dict[str, Tensor]) -> None:
    """A mask or temperature of a slightly wrong shape trains on, at a plausible loss."""
    arguments = {
        "scores": torch.zeros(2, 3),
        "positives": torch.tensor([0, 1]),
        "valid": torch.ones(2, 3, dtype=torch.bool),
        "inverse_temperature": 20.0,
        "margin": 0.02,
    }
    with pytest.raises(ShapeError, match=next(iter(change))):
        info_nce(**(arguments | change))


def test_a_mask_without_its_scores_and_an_unknown_reduction_are_refused() -> None:
    """Forgetting self_scores would train without self-negatives although they were asked for."""
    scores = torch.zeros(QUERIES, CANDIDATES)
    masks = torch.ones(6, CANDIDATES, dtype=torch.bool), torch.ones(6, QUERIES, dtype=torch.bool)
    settings = {"inverse_temperature": 20.0, "margin": 0.02}
    with pytest.raises(ShapeError, match="self_valid without self_scores"):
        both_directions(scores, ROWS, COLUMNS, *masks, **settings, self_valid=torch.ones(6, dtype=torch.bool))
    with pytest.raises(ConfigError, match="reduction is 'max'"):
        both_directions(scores, ROWS, COLUMNS, *masks, **settings, reduction="max")
    with pytest.raises(ShapeError, match="valid_columns"):
        both_directions(scores, ROWS, COLUMNS, masks[0], masks[1].T, **settings)


@pytest.mark.parametrize("k", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_positive_is_refused(k: float) -> None:
    """A negative inverse temperature trains the worst candidate to the top."""
    with pytest.raises(ConfigError, match="inverse_temperature"):
        info_nce(
            torch.zeros(1, 2),
            torch.tensor([0]),
            torch.ones(1, 2, dtype=torch.bool),
            inverse_temperature=k,
            margin=0.0,
        )
