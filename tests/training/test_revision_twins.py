"""The twins of MGSR's terms in a step of a trial: one example, one place of a list, one pair of tokens at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raydistill.kg.store import Dataset
from raydistill.kg.triples import with_inverses
from raydistill.objectives import revision
from raydistill.training.outputs import StepOutputs
from raydistill.training.parts import TrialParts
from raydistill.training.terms.revision import Bounds, ClippedListTerm, SpanTerm

sys.path.insert(0, str(Path(__file__).parents[1]))
from naive import ROWS, check_equal, naive_revision, outputs_of

LAYER, TEACHER_LAYER = 1, 3
NEARLY = {"rtol": 1e-4, "gradient_rtol": 1e-3}


@pytest.fixture(scope="module")
def triples(dataset: Dataset) -> Any:
    return with_inverses(dataset.train, dataset.num_relations)[ROWS]


@pytest.fixture(scope="module")
def step(parts_of: Callable[..., TrialParts], triples: Any) -> StepOutputs:
    """A step of a student of two layers under a teacher of four; among the entity texts are heads that are no columns."""
    trainer = parts_of("mgsr", contrastive={"self_negatives": True}).trainer
    batch = trainer.builder.build(triples)
    assert not batch.valid_rows.all()
    assert len(batch.candidates) > batch.num_columns
    return outputs_of(trainer, batch, 0, 0)


def cutting_bounds() -> Bounds:
    """Bounds with an opinion on every row."""
    bounds, generator = Bounds(), torch.Generator().manual_seed(5)
    for parameter in bounds.parameters():
        nn.init.normal_(parameter, std=0.15, generator=generator)
    return bounds


def naive_gates(teacher: Tensor, left: list[int], right: int, bounds: tuple[Tensor, Tensor], least: int) -> Tensor:
    """How far each candidate that is left is let through, by its place in the teacher's order of them."""
    upper, lower = bounds
    best_first = sorted(left, key=lambda c: -float(teacher[c]))
    gates = []
    for c in left:
        place = best_first.index(c)
        share = place / len(left)
        gate = torch.sigmoid((lower - share) / 0.02 + 4) * torch.sigmoid((share - upper) / 0.02 + 4)
        gates.append(torch.ones_like(gate) if place < least or c == right else gate)
    return torch.stack(gates)


def naive_clipped(step: StepOutputs, bounds: Bounds, *, length: int, mass: float, least: int) -> Tensor:
    """DAC-KL and its hinge, mean over all places of all lists."""
    encoded, batch = step.clean, step.clean.batch
    divergences, missing = [], []
    for b in range(len(batch)):
        r, right, columns = int(batch.rows[b]), int(batch.columns[b]), range(batch.num_columns)
        query, theirs = encoded.query_vectors[r], encoded.teacher_vectors[0][r]
        student = torch.stack([step.inverse_temperature * (query @ encoded.candidate_vectors[c]) for c in columns])
        k = step.teacher_inverse_temperature
        teacher = torch.stack([k * (theirs @ encoded.teacher_vectors[1][c]) for c in columns])
        allowed = [c for c in columns if batch.valid_rows[b, c]]
        everyone = torch.ones(1, len(allowed), dtype=torch.bool)
        upper, lower = bounds(student[None, allowed], teacher[None, allowed], everyone)
        listed = naive_revision(student, teacher, allowed, length)
        for place in range(len(listed)):
            left = [c for c in allowed if c not in listed[:place]]
            gates = naive_gates(teacher, left, right, (upper[0], lower[0]), least)
            p, q = ((gates * scores[left].exp()) / (gates * scores[left].exp()).sum() for scores in (teacher, student))
            divergences.append((p * (p / q).log()).sum())
            missing.append((mass - (teacher[left].softmax(0) * gates).sum()).clamp(min=0))
    return torch.stack(divergences).mean() + 10.0 * torch.stack(missing).mean()


@pytest.mark.parametrize("length", [3, 7], ids=["all rows are long", "some rows end early"])
def test_clipped_list_is_that_of_one_place_at_a_time(step: StepOutputs, length: int) -> None:
    """Ranks that are not those of what is left, bounds that see known answers, a hinge over other places than the divergence."""
    bounds, mass, least = cutting_bounds(), 0.9, 1
    assert bool(step.clean.batch.valid_rows.sum(1).min() >= length) is (length == 3)
    fast = ClippedListTerm(1.0, bounds, length, mass, least).value(step)
    assert step.notes["kept/hinge"] > 0.01
    assert step.notes["kept/candidates"] < step.clean.batch.valid_rows.sum(1).float().mean() - 0.5
    sides = step.clean.queries, step.clean.candidates
    leaves = [*(side.student.vectors for side in sides), step.inverse_temperature, *bounds.parameters()]
    check_equal(fast, naive_clipped(step, bounds, length=length, mass=mass, least=least), leaves, **NEARLY)


def test_known_other_answers_are_never_listed(
    step: StepOutputs, dataset: Dataset, triples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student that is taught to draw a right answer last, because it is not the one that was asked for."""
    seen: list[revision.RevisedLists] = []
    original = revision.revised_lists

    def spied(*given: Any, **options: Any) -> revision.RevisedLists:
        seen.append(original(*given, **options))
        return seen[-1]

    batch = step.clean.batch
    length = batch.num_columns
    monkeypatch.setattr(revision, "revised_lists", spied)
    ClippedListTerm(1.0, Bounds(), length, 0.7, 1).value(step)
    scores = step.clean.scores[batch.rows], step.clean.teacher_scores[batch.rows]
    spied(*scores, torch.ones_like(batch.valid_rows), length=length)
    truth = set(map(tuple, with_inverses(dataset.train, dataset.num_relations).tolist()))

    def known_others(found: revision.RevisedLists) -> int:
        return sum(
            (int(h), int(r), int(batch.column_entities[c])) in truth and c != int(batch.columns[b])
            for b, (h, r, _) in enumerate(np.asarray(triples))
            for c in found.lists[b][found.written[b]].tolist()
        )

    careful, careless = seen
    assert known_others(careful) == 0
    assert careful.written.sum() == batch.valid_rows.sum()
    assert known_others(careless) > 0


def naive_span(step: StepOutputs, distance: str) -> Tensor:
    """Distance of both models at each pair of neighbours of a span, mean over a tower's pairs, summed over towers."""
    columns, total = step.clean.batch.num_columns, torch.zeros((), dtype=torch.float64)
    own = step.clean.candidate_vectors[:columns].detach().double()
    theirs = step.clean.teacher_vectors[1][:columns].double()

    def pointed(state: Tensor, k: Tensor | float, candidates: Tensor) -> Tensor:
        unit = state.double() / state.double().norm()
        return torch.stack([k * (unit @ vector) for vector in candidates]).softmax(0)

    for side in (step.clean.queries, step.clean.candidates):
        assert side.teacher is not None
        assert side.texts.spans is not None
        states, taught = side.student.states[LAYER], side.teacher.states[TEACHER_LAYER]
        first, apart = 0, []
        for length in side.texts.lengths.tolist():
            for i in range(first, first + length - 1):
                span, following = int(side.texts.spans[i]), int(side.texts.spans[i + 1])
                if span < 0 or span != following:
                    continue
                a, b = (pointed(states[j], step.inverse_temperature.double(), own) for j in (i, i + 1))
                c, d = (pointed(taught[j], step.teacher_inverse_temperature, theirs) for j in (i, i + 1))
                x, y = a * b, c * d
                cosine = (x @ y) / (x.norm() * y.norm())
                apart.append(1 - cosine if distance == "cosine" else (x - y).square().sum())
            first += length
        total = total + torch.stack(apart).mean()
    return total


@pytest.mark.parametrize("distance", ["cosine", "squares"])
def test_span_is_that_of_one_pair_of_neighbours_at_a_time(
    step: StepOutputs, distance: Literal["cosine", "squares"]
) -> None:
    """Neighbours across pieces or texts, candidates that are no columns, a tower whose texts weigh alike however many pairs they have."""
    fast = SpanTerm(1.0, LAYER, TEACHER_LAYER, distance).value(step)
    sides = step.clean.queries, step.clean.candidates
    leaves = [*(side.student.states[LAYER] for side in sides), step.inverse_temperature]
    check_equal(fast, naive_span(step, distance), leaves, **NEARLY)
