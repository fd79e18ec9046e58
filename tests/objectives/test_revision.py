"""MGSR on ranked lists: revision, learned clipping, and correlation of neighbours."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from raydistill.errors import ConfigError
from raydistill.objectives.clipped import clipped_divergence, kept_mass, rank_gates, teacher_ranks
from raydistill.objectives.logits import kl_divergence
from raydistill.objectives.revision import gumbel, revised_lists
from raydistill.objectives.spans import span_correlation

sys.path.insert(0, str(Path(__file__).parents[1]))
from naive import naive_revision

TEACHER = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0]])
STUDENT = torch.tensor([[4.0, 1.0, 3.5, 2.0, 0.0]])
ALL = torch.ones(1, 5, dtype=torch.bool)


def drawn(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 3


def test_list_is_revised_at_its_worst_error() -> None:
    """The worked example: the wrong place, the wrong prefix, or a tail that is not drawn again."""
    found = revised_lists(STUDENT, TEACHER, ALL, length=5)
    assert found.divergences[0].tolist() == pytest.approx([0.449, 1.194, 0.811, 0.170, 0.0], abs=5e-4)
    assert found.error.tolist() == [1]
    assert found.lists.tolist() == [[0, 1, 2, 3, 4]]
    assert revised_lists(STUDENT, STUDENT, ALL, length=5).lists.tolist() == [[0, 2, 3, 1, 4]]


def test_list_without_an_error_stays() -> None:
    """Where both agree there is nothing to mend, and nothing to crash at."""
    found = revised_lists(TEACHER * 0.3, TEACHER, ALL, length=4)
    assert found.error.tolist() == [-1]
    assert found.lists.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("by_chance", [False, True])
def test_revision_is_that_of_one_candidate_at_a_time(by_chance: bool) -> None:
    """Whole batches at once, with rows that have fewer candidates than places; noise that is taken for a score where models are compared."""
    student, teacher = drawn(40, 12, 0), drawn(40, 12, 1)
    valid = torch.rand(40, 12, generator=torch.Generator().manual_seed(2)) > 0.5
    noise = gumbel(torch.rand(40, 12, generator=torch.Generator().manual_seed(3))) if by_chance else None
    found = revised_lists(student, teacher, valid, length=6, noise=noise)
    for row in range(40):
        allowed = valid[row].nonzero().flatten().tolist()
        written = found.lists[row][found.written[row]].tolist()
        assert written == naive_revision(student[row], teacher[row], allowed, 6, None if noise is None else noise[row])
        assert set(written) <= set(allowed), "a known answer was listed as wrong"
    assert (found.written.sum(1) == valid.sum(1).clamp(max=6)).all()


def test_lists_are_drawn_as_the_students_probabilities_say() -> None:
    """Noise of another distribution: lists that are nearly the best ones, or nearly anything."""
    scores, rows = torch.tensor([[1.0, 0.0, -1.0, 2.0]]), 40_000
    student, valid = scores.expand(rows, 4), torch.tensor([True, True, True, False]).expand(rows, 4)
    noise = gumbel(torch.rand(rows, 4, generator=torch.Generator().manual_seed(0)))
    lists = revised_lists(student, student + noise, valid, length=2, noise=noise).lists
    p = scores[0, :3].softmax(0)
    for first in range(3):
        for second in {0, 1, 2} - {first}:
            share = float(((lists[:, 0] == first) & (lists[:, 1] == second)).float().mean())
            assert share == pytest.approx(float(p[first] * p[second] / (1 - p[first])), abs=0.01)


def test_noise_is_finite_at_both_ends() -> None:
    """A list of one candidate because a random number was 0, or so near to 1 that its logarithm is."""
    assert bool(gumbel(torch.tensor([0.0, 1.0, 0.5])).isfinite().all())


def test_open_gates_let_the_plain_divergence_through() -> None:
    """A clip that bends what it keeps."""
    student, teacher, valid = drawn(6, 20, 0), drawn(6, 20, 1), drawn(6, 20, 2) > -2
    positives = valid.float().argmax(1)
    gates = rank_gates(teacher_ranks(teacher, valid), positives, valid, torch.zeros(6), torch.ones(6), least=1)
    assert gates.min() > 0.98
    open_value = clipped_divergence(student, teacher, torch.ones_like(gates), valid).values
    torch.testing.assert_close(open_value, kl_divergence(student, teacher, valid, temperature=1.0).values)
    soft = clipped_divergence(student, teacher, gates, valid).values
    torch.testing.assert_close(soft, open_value, atol=1e-2, rtol=1e-2)


def test_open_gates_are_the_plain_divergence_in_double_precision() -> None:
    """A clip that adds a constant too small for single precision to show, or that lets in what may not be compared."""
    student, teacher = drawn(8, 20, 0).double(), drawn(8, 20, 1).double()
    valid = torch.rand(8, 20, generator=torch.Generator().manual_seed(2)) > 0.4
    # Bounds so far out that every candidate lies between them, edges included.
    upper, lower = torch.full((2, 8), 2.0).double() * torch.tensor([[-1.0], [1.0]])
    gates = rank_gates(teacher_ranks(teacher, valid), valid.int().argmax(1), valid, upper, lower, least=1)
    found = clipped_divergence(student, teacher, gates, valid)
    assert found.values.dtype == torch.float64
    plain = kl_divergence(student, teacher, valid, temperature=1.0).values
    torch.testing.assert_close(found.values, plain, atol=1e-6, rtol=0)
    for row in range(8):
        log_p, log_q = (scores[row][valid[row]].log_softmax(0) for scores in (teacher, student))
        assert found.values[row].item() == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum()), abs=1e-6)


def test_bounds_set_by_hand_cut_to_the_divergence_of_what_is_kept() -> None:
    """A cut at other ranks than the bounds say, or one of the two sides left as it was.

    Five candidates are 0.2 of the ranks apart, and both edges, 0.08 beyond their bounds, lie half-way between two of them: ten widths of 0.02 away from one to the next, so that a gate inside is above
    1 - d and one outside below d with d = sigmoid(-5). With R = what is left out over what is kept, of either model, and L = the largest |log p/q| of all candidates, soft and hard divergence differ by at most

        L ((1 + d R_T) / (1 - d) - 1 + d R_T / (1 - d)) + log (1 + d max R) - log (1 - d)
    """
    teacher, student = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]), torch.tensor([0.2, 0.2, 0.3, 0.2, 0.1])
    logs, everyone = [one.double().log()[None] for one in (teacher, student)], torch.ones(1, 5, dtype=torch.bool)
    upper, lower = torch.tensor([0.38]).double(), torch.tensor([0.62]).double()
    gates = rank_gates(teacher_ranks(logs[0], everyone), torch.tensor([4]), everyone, upper, lower, least=1)
    # The highest, the third and the fourth, and the positive; the second is cut away.
    p, q = torch.tensor([8, 3, 2, 1]).double() / 14, torch.tensor([2, 3, 2, 1]).double() / 8
    hard, d = float((p * (p / q).log()).sum()), float(torch.tensor(-5.0).double().sigmoid())
    ratios, most = (0.3 / 0.7, 0.2 / 0.8), math.log(0.3 / 0.7 / (0.2 / 0.8))
    most = max(most, float((p / q).log().abs().max()))
    off = (1 + d * ratios[0]) / (1 - d) - 1 + d * ratios[0] / (1 - d)
    bound = most * off + math.log(1 + d * max(ratios)) - math.log(1 - d)
    value = clipped_divergence(logs[1], logs[0], gates, everyone).values.item()
    assert abs(value - hard) <= bound < 0.03
    # And with the gates as they are, to the last digits.
    ranks = torch.arange(5).double() / 5
    soft = torch.sigmoid((0.62 - ranks) / 0.02 + 4) * torch.sigmoid((ranks - 0.38) / 0.02 + 4)
    soft[0] = soft[4] = 1.0
    let = [(one.double() * soft) / (one.double() * soft).sum() for one in (teacher, student)]
    assert value == pytest.approx(float((let[0] * (let[0] / let[1]).log()).sum()), abs=1e-6)
    assert value != hard
    whole = float((teacher * (teacher / student).log()).sum())
    assert abs(whole - hard) > 2 * bound


def test_clipped_divergence_by_hand() -> None:
    """Both sides are made distributions again after the clip."""
    teacher, student = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log(), torch.tensor([[0.25, 0.25, 0.4, 0.1]]).log()
    gates, everyone = torch.tensor([[1.0, 1.0, 1e-30, 1e-30]]), torch.ones(1, 4, dtype=torch.bool)
    p, q = torch.tensor([0.625, 0.375]), torch.tensor([0.5, 0.5])
    value = clipped_divergence(student, teacher, gates, everyone).values.item()
    assert value == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)
    assert kept_mass(teacher, gates, everyone).item() == pytest.approx(0.8)


def test_positive_and_the_highest_are_always_kept() -> None:
    """Bounds that cross, or that leave nothing: a divergence of one candidate, or without the answer."""
    teacher, valid = drawn(8, 30, 0), torch.ones(8, 30, dtype=torch.bool)
    positives = torch.full((8,), 29)
    gates = rank_gates(
        teacher_ranks(teacher, valid), positives, valid, torch.full((8,), 0.9), torch.full((8,), 0.1), least=3
    )
    assert (gates[:, 29] == 1).all()
    assert ((gates == 1) & (teacher_ranks(teacher, valid) < 3)).sum(1).tolist() == [3] * 8
    assert ((gates > 0.5).sum(1) <= 4).all()
    with pytest.raises(ConfigError, match="least is 0"):
        rank_gates(teacher_ranks(teacher, valid), positives, valid, torch.zeros(8), torch.ones(8), least=0)


@pytest.mark.parametrize("least", [1, 3, 8, 30])
def test_some_are_kept_whatever_the_bounds_and_however_few_there_are(least: int) -> None:
    """A row of fewer candidates than have to be kept, among bounds that say anything: one that keeps too few, or lets in what is not compared."""
    generator = torch.Generator().manual_seed(least)
    teacher = torch.randn(200, 12, generator=generator)
    valid = torch.rand(200, 12, generator=generator) < torch.rand(200, 1, generator=generator)
    positives = torch.randint(12, (200,), generator=generator)
    valid[torch.arange(200), positives] = True
    upper, lower = torch.rand(2, 200, generator=generator)
    gates = rank_gates(teacher_ranks(teacher, valid), positives, valid, upper, lower, least=least)
    counts = valid.sum(1)
    assert (counts < 8).any()
    assert (counts == 1).any()
    assert (counts > 8).any()
    assert (((gates > 0.5) & valid).sum(1) >= counts.clamp(max=least)).all()
    for row in range(200):
        best = sorted(valid[row].nonzero().flatten().tolist(), key=lambda column: -float(teacher[row, column]))[:least]
        assert (gates[row, [*best, int(positives[row])]] == 1).all()
    assert least == 30 or (gates < 0.5).any(), "nothing was ever cut"


def test_bounds_cut_where_they_say() -> None:
    """Ranks counted from the wrong end."""
    teacher, valid = torch.arange(100.0, 0, -1)[None], torch.ones(1, 100, dtype=torch.bool)
    gates = rank_gates(
        teacher_ranks(teacher, valid), torch.tensor([50]), valid, torch.tensor([0.4]), torch.tensor([0.6]), least=1
    )
    kept = (gates[0] > 0.5).nonzero().flatten().tolist()
    # A bound lets through what lies up to four widths of its edge beyond it.
    assert kept[0] == 0
    assert kept[1] in (32, 33)
    assert kept[-1] in (67, 68)
    assert kept[1:] == [*range(kept[1], kept[-1] + 1)]


def test_spans_of_one_token_have_no_neighbours() -> None:
    """A division by no pairs; a span that goes on in the next text."""
    logits, other = drawn(6, 9, 0), drawn(6, 9, 1)
    owner, alone = torch.tensor([0, 0, 0, 1, 1, 1]), torch.arange(6)
    lonely = span_correlation(logits, other, alone, owner, 2)
    assert lonely.weights.tolist() == [0, 0]
    assert lonely.mean() == 0
    across = span_correlation(logits, other, torch.tensor([0, 1, 7, 7, 2, 3]), owner, 2)
    assert across.weights.tolist() == [0, 0]


@pytest.mark.parametrize("distance", ["cosine", "squares"])
def test_tokens_outside_of_spans_are_not_looked_at(distance: Literal["cosine", "squares"]) -> None:
    """Special tokens that are neighbours of a name, or of each other because both are of no span."""
    own, theirs = drawn(10, 9, 0), drawn(10, 9, 1)
    owner, spans = torch.tensor([0] * 6 + [1] * 4), torch.tensor([-1, 3, 3, -1, -1, 5, -1, 5, 5, -1])

    def correlation(order: Tensor) -> list[float]:
        found = span_correlation(own[order], theirs[order], spans, owner, 2, distance=distance)
        assert found.weights.tolist() == [1, 1]
        return found.values.tolist()

    outside, inside = ((spans < 0) == flag for flag in (True, False))
    as_they_are = torch.arange(10)
    for places, same in ((outside, True), (inside, False)):
        order = as_they_are.clone()
        order[places] = as_they_are[places].roll(2)
        assert (correlation(order) == correlation(as_they_are)) is same


@pytest.mark.parametrize("distance", ["cosine", "squares"])
def test_span_correlation_is_that_of_the_formula(distance: str) -> None:
    """Pairs that jump over a token, or that join two spans."""
    own, theirs = drawn(6, 9, 0), drawn(6, 9, 1)
    owner, spans = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([-1, 3, 3, 3, 4, 4])
    found = span_correlation(own, theirs, spans, owner, 2, distance=distance)  # type: ignore[arg-type]
    p, q = own.softmax(1), theirs.softmax(1)

    def apart(i: int) -> Tensor:
        a, b = p[i] * p[i + 1], q[i] * q[i + 1]
        return 1 - torch.cosine_similarity(a, b, dim=0) if distance == "cosine" else (a - b).square().sum()

    expected = torch.stack([(apart(1) + apart(2)) / 2, apart(4)])
    torch.testing.assert_close(found.values, expected, atol=1e-6, rtol=1e-4)
    assert found.weights.tolist() == [2, 1]


def test_cosine_does_not_fade_with_the_number_of_candidates() -> None:
    """Products of two distributions over 512 candidates: their squared differences are nothing beside any other term."""
    owner, spans = torch.zeros(8, dtype=torch.int64), torch.zeros(8, dtype=torch.int64)
    own, theirs = drawn(8, 512, 0) / 3, drawn(8, 512, 1) / 3
    assert span_correlation(own, theirs, spans, owner, 1).values.item() > 0.1
    assert span_correlation(own, theirs, spans, owner, 1, distance="squares").values.item() < 1e-5
