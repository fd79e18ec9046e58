"""Structural models: what a score is, whose rows are looked up, and what they cannot be asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from raydistill.data.texts import Texts
from raydistill.errors import CapabilityError, ShapeError
from raydistill.models.features import Needs
from raydistill.teachers.several import SeveralTeachers
from raydistill.teachers.structural import (
    INTERACTIONS,
    Interaction,
    StructuralModel,
    StructuralTeacher,
    complex_product,
    product,
)

ENTITIES, RELATIONS, DIMENSION = 8, 4, 3


def model_of(interaction: Interaction = "complex") -> StructuralModel:
    draw, width = torch.Generator().manual_seed(3), DIMENSION * (2 if interaction == "complex" else 1)
    tables = (torch.randn(rows, width, generator=draw) for rows in (ENTITIES, 2 * RELATIONS))
    return StructuralModel(interaction, *tables)


def test_scores_by_hand() -> None:
    """An imaginary part with another sign, or that of the tail where the conjugate belongs: a model of something else, and nobody sees it."""
    # (1 + 2i)(3 - i) = 5 + 5i, times the conjugate of 2 + i is 15 + 5i; the other way round (2 + i)(3 - i) = 7 + i, times that of 1 + 2i is 9 - 13i.
    head, relation, tail = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]]), torch.tensor([[2.0, 1.0]])
    assert complex_product(head, relation).tolist() == [[5.0, 5.0]]
    assert float((complex_product(head, relation) * tail).sum()) == 15.0
    assert float((complex_product(tail, relation) * head).sum()) == 9.0
    assert product(head, relation).tolist() == [[3.0, -2.0]]


@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_scores_are_those_of_pykeen(interaction: Interaction) -> None:
    """A model under a known name that is not the known one; or an inverse relation that is another relation's."""
    pytest.importorskip("pykeen")
    from pykeen.models import ERModel
    from pykeen.triples import CoreTriplesFactory

    model, every = model_of(interaction), torch.arange(ENTITIES)
    triples = torch.stack([every, every % RELATIONS, (every + 3) % ENTITIES], dim=1)
    factory = CoreTriplesFactory(triples, ENTITIES, RELATIONS, create_inverse_triples=True)
    rows = {"shape": DIMENSION, "dtype": torch.cfloat if interaction == "complex" else torch.float32}
    peer: Any = ERModel(
        triples_factory=factory,
        interaction=interaction,
        entity_representations_kwargs=dict(rows),
        relation_representations_kwargs=dict(rows),
        random_seed=0,
    )
    # Theirs take turns: relation, its inverse, the next relation.
    turns = torch.arange(2 * RELATIONS).view(2, RELATIONS).T.reshape(-1)
    _fill(peer.entity_representations[0], model.entities)
    _fill(peer.relation_representations[0], model.relations[turns])
    with torch.no_grad():
        forward = model.query_vectors(triples[:, 0], triples[:, 1]) @ model.entity_vectors(every).T
        torch.testing.assert_close(forward, peer.predict_t(triples[:, :2]))
        torch.testing.assert_close(forward[every, triples[:, 2]], peer.predict_hrt(triples)[:, 0])
        inverse = model.query_vectors(triples[:, 2], triples[:, 1] + RELATIONS) @ model.entity_vectors(every).T
        torch.testing.assert_close(inverse, peer.predict_h(triples[:, 1:]))


def _fill(representation: Any, rows: Tensor) -> None:
    weight = representation._embeddings.weight
    if weight.shape[1] == 2 * DIMENSION:
        rows = torch.stack(rows.chunk(2, dim=1), dim=2).flatten(1)
    weight.data.copy_(rows)


def test_texts_get_the_rows_of_what_they_are_of(texts: tuple[Texts, Texts]) -> None:
    """Scores of whichever text stood there before the batch was sorted."""
    model, (queries, entities) = model_of(), texts
    teacher, order = StructuralTeacher(model), torch.tensor([5, 2, 7])
    found = teacher.encode(queries.select(order), "query", Needs()).vectors
    candidates = teacher.encode(entities.select(torch.tensor([6, 1])), "entity", Needs()).vectors
    assert torch.equal(candidates, model.entities[[6, 1]])
    # The queries' relations are the heads' numbers, by the fixture.
    for vector, head in zip(found, order.tolist(), strict=True):
        (a, b), (c, d) = (table[head].chunk(2) for table in (model.entities, model.relations))
        torch.testing.assert_close(vector, torch.cat([a * c - b * d, a * d + b * c]))
    masked = queries.with_tokens(torch.zeros_like(queries.tokens))
    assert torch.equal(teacher.encode(masked, "query", Needs()).vectors[order], found)
    assert (teacher.inverse_temperature, teacher.num_layers, teacher.at_epoch(3)) == (1.0, 0, True)
    assert not found.requires_grad


def test_it_answers_beside_another_teacher(texts: tuple[Texts, Texts]) -> None:
    """Vectors of one teacher under the other one's number."""
    first, second = StructuralTeacher(model_of("distmult")), StructuralTeacher(model_of())
    found = SeveralTeachers(first, [second]).encode(texts[1], "entity", Needs(others=True))
    assert [vectors.shape[1] for vectors in (found.vectors, *found.others)] == [3, 6]


def test_what_it_cannot_know_is_refused(texts: tuple[Texts, Texts]) -> None:
    """States that are zeros, or the scores of entity 0 for a text of nobody."""
    teacher = StructuralTeacher(model_of())
    with pytest.raises(CapabilityError, match="states or attention"):
        teacher.encode(texts[0], "query", Needs(frozenset({1})))
    with pytest.raises(CapabilityError, match="not known whose"):
        teacher.encode(replace(texts[0], ids=None), "query", Needs())


@pytest.mark.parametrize(
    ("entities", "relations"),
    [((8, 6), (7, 6)), ((8, 6), (8, 4)), ((8, 5), (8, 5)), ((8, 3, 2), (8, 3, 2))],
    ids=["a relation without inverse", "two widths", "half a number", "complex as it lies in PyKEEN"],
)
def test_tables_that_do_not_belong_together_are_refused(entities: tuple[int, ...], relations: tuple[int, ...]) -> None:
    """Scores that broadcast, or of real parts with imaginary ones."""
    with pytest.raises(ShapeError, match="tables of shapes"):
        StructuralModel("complex", torch.zeros(entities), torch.zeros(relations))
    with pytest.raises(ShapeError, match="not finite"):
        StructuralModel("distmult", torch.full((2, 2), torch.nan), torch.zeros(2, 2))
