"""Answers to single queries: for keys, names and new text, and refusals where the question has no one meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydistill.data.texts import Texts
from raydistill.errors import PredictionError
from raydistill.evaluation.encode import encode_queries, link_prediction_task
from raydistill.kg.store import Dataset
from raydistill.kg.text import join_text
from raydistill.models.biencoder import BiEncoder
from raydistill.shipping import best, entities, meanings
from raydistill.shipping import predictor as predicting
from raydistill.shipping.entities import EntityVectors
from raydistill.shipping.matching import places_of
from raydistill.shipping.predictor import Predictor
from raydistill.shipping.queries import Query
from raydistill.shipping.reading import encoded_entities


@pytest.fixture(scope="module")
def predictor(teacher_checkpoint: Callable[..., Path], dataset_folder: Path) -> Predictor:
    """A predictor of the tiny teacher."""
    return Predictor.load(teacher_checkpoint(), dataset_folder)


def test_tails_stand_in_the_order_the_evaluation_ranks_them(predictor: Predictor, dataset: Dataset) -> None:
    """A predictor that put texts together in its own way would show answers the reported ranks say nothing about."""
    task = link_prediction_task(dataset, "test")
    heads, relations = task.distinct_heads[:1], task.distinct_relations[:1]
    vectors = predictor.entity_vectors.tensors()["vectors"]
    scores = (encode_queries(predictor.model, predictor.assembler, heads, relations) @ vectors.T)[0]
    forward = int(relations[0]) < dataset.num_relations
    relation = dataset.relation_keys[int(relations[0]) % dataset.num_relations]
    ask = predictor.tails if forward else predictor.heads
    answers = ask(dataset.entity_keys[int(heads[0])], relation, dataset.num_entities)
    assert [answer.score for answer in answers] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-6)
    assert {answer.key for answer in answers} == set(dataset.entity_keys)


def test_entities_that_do_not_fit_at_once_are_encoded_in_smaller_parts(
    predictor: Predictor, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that is refused beside a campaign which has most of the GPU, where `evaluate` goes on."""
    original = BiEncoder.encode_part

    def encode_part(self: BiEncoder, texts: Texts, tower: Any, needs: Any) -> Any:
        if int(texts.lengths.sum()) > 32:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(self, texts, tower, needs)

    monkeypatch.setattr(BiEncoder, "encode_part", encode_part)
    monkeypatch.setattr(predictor.model, "tokens_per_micro_batch", 64)
    found = encoded_entities(predictor.model, predictor.assembler, dataset.num_entities, 32)
    assert predictor.model.tokens_per_micro_batch <= 32
    assert torch.allclose(found.codes, predictor.entity_vectors.codes, atol=1e-5)


def test_known_marks_the_triples_of_the_graph(predictor: Predictor, dataset: Dataset) -> None:
    """Without the mark a user takes what the graph says for what the model found out."""
    head, relation, _ = dataset.train[0]
    everything = np.concatenate([dataset.train, dataset.valid, dataset.test])
    true = {int(tail) for h, r, tail in everything if h == head and r == relation}
    answers = predictor.tails(dataset.entity_keys[head], dataset.relation_keys[relation], dataset.num_entities)
    assert {answer.key for answer in answers if answer.known} == {dataset.entity_keys[tail] for tail in true}


def test_new_text_is_encoded_as_the_same_text_of_an_entity_is(predictor: Predictor, dataset: Dataset) -> None:
    """Free text framed in another way than training texts would be answered at random."""
    long = next(i for i, text in enumerate(dataset.entity_descriptions) if len(text.split()) >= 20)
    text = join_text(dataset.entity_names[long], dataset.entity_descriptions[long], [])
    inside = encode_queries(predictor.model, predictor.assembler, np.array([long]), np.array([0]))
    assert torch.allclose(predictor.reader.new([text], np.array([0])), inside, atol=1e-6)
    assert not any(answer.known for answer in predictor.tails(text, dataset.relation_keys[0], 3))


@pytest.mark.parametrize("asked", ["no such relation", ""])
def test_unknown_relation_is_refused_with_neighbours(predictor: Predictor, dataset: Dataset, asked: str) -> None:
    """A misspelt relation read as new text would get confident nonsense."""
    with pytest.raises(PredictionError, match="is not in the graph"):
        predictor.tails(dataset.entity_keys[0], asked)


def test_shared_name_is_refused_with_keys(predictor: Predictor, dataset: Dataset) -> None:
    """Homonyms are common (31 % of WN18RR's entities): the first of them is not what the user meant."""
    predictor.dataset.entity_names[0], kept = predictor.dataset.entity_names[1], predictor.dataset.entity_names[0]
    try:
        with pytest.raises(PredictionError, match="names 2 entities"):
            predictor.tails(dataset.entity_names[1], dataset.relation_keys[0])
    finally:
        predictor.dataset.entity_names[0] = kept


def test_k_below_one_is_refused(predictor: Predictor, dataset: Dataset) -> None:
    """topk of a negative number is an internal error."""
    with pytest.raises(PredictionError, match="k = 0"):
        predictor.tails(dataset.entity_keys[0], dataset.relation_keys[0], 0)


def test_new_answers_are_those_the_graph_does_not_know(predictor: Predictor, dataset: Dataset) -> None:
    """Left out after the best were chosen, known answers would take the places of new ones."""
    everyone = predictor.tails("ann", "knows", dataset.num_entities)
    expected = {answer.key: answer.score for answer in everyone if not answer.known}
    assert {answer.key for answer in everyone if answer.known} == {"bob", "carl"}
    # By score: which of two homonyms comes first is chance.
    few = predictor.tails("ann", "knows", 3, new=True)
    assert [answer.score for answer in few] == list(expected.values())[:3]
    assert {answer.key: answer.score for answer in predictor.tails("ann", "knows", 99, new=True)} == expected
    heads = predictor.heads("rome", "lives in", 99, new=True)
    assert {answer.key for answer in heads} == set(dataset.entity_keys) - {"ann", "carl", "bob"}


QUERIES = [
    Query("lives in", head="a stranger: who paints"),
    Query("knows", head="ann"),
    Query("lives in", tail="rome"),
    Query("knows", tail="a stranger: who paints"),
    Query("knows", head="CARL"),
]


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("new", [False, True])
def test_many_queries_have_the_answers_of_each(
    teacher_checkpoint: Callable[..., Path],
    dataset_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    bits: int,
    new: bool,
) -> None:
    """Encoded and scored together, entities and new texts in any order, in parts: an answer beside another question is believed."""
    predictor = Predictor.load(teacher_checkpoint(), dataset_folder, entity_bits=bits)
    for count in (4, 99):
        together = predictor.answers(QUERIES, count, new=new)
        alone = [
            predictor.tails(query.head, query.relation, count, new=new)
            if query.head is not None
            else predictor.heads(query.given, query.relation, count, new=new)
            for query in QUERIES
        ]
        with monkeypatch.context() as patch:
            patch.setattr(predicting, "QUERIES_AT_ONCE", 3)
            patch.setattr(best, "SCORES_AT_ONCE", 17)
            patch.setattr(entities, "_ROWS_AT_ONCE", 3)
            in_parts = predictor.answers(QUERIES, count, new=new)
        for found in (together, in_parts):
            for ours, theirs in zip(found, alone, strict=True):
                assert [answer.score for answer in ours] == pytest.approx([answer.score for answer in theirs], abs=1e-6)
                assert sorted(answer.known for answer in ours) == sorted(answer.known for answer in theirs)
                if count == 99:
                    assert {answer.key: answer.known for answer in ours} == {one.key: one.known for one in theirs}
    assert predictor.answers([], 4) == []


def test_vectors_are_looked_at_once_for_a_block_of_queries(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 8 bits every look turns all codes into numbers: of 200,000 entities, 64 queries took 24 seconds. And nothing may be scored before it is asked for."""
    looks: list[int] = []
    scores = EntityVectors.scores

    def counted(self: EntityVectors, queries: torch.Tensor) -> torch.Tensor:
        looks.append(len(queries))
        return scores(self, queries)

    monkeypatch.setattr(EntityVectors, "scores", counted)
    predictor.answers(QUERIES, 4)
    assert looks == [5]
    looks.clear()
    monkeypatch.setattr(best, "SCORES_AT_ONCE", 2 * len(predictor.entity_vectors))
    turn = predictor.answers_in_turn(QUERIES, 4)
    assert looks == []
    next(turn)
    assert looks == [2]
    assert len(list(turn)) == 4
    assert looks == [2, 2, 1]


def test_queries_are_understood_before_the_first_is_answered(predictor: Predictor) -> None:
    """A misspelt relation in the last line, told after an hour of answers."""
    with pytest.raises(PredictionError, match="'nonsense' is not in the graph"):
        predictor.answers_in_turn([*QUERIES, Query("nonsense", head="ann")])


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (Query("nonsense", head="ann", origin="q.tsv:7"), "^q.tsv:7: relation 'nonsense' is not in the graph"),
        (Query("knows", head="Springfield", origin="q.tsv:7"), "^q.tsv:7: 'Springfield' names 2 entities"),
        (Query("knows", tail=" ", origin="q.tsv:7"), "^q.tsv:7: an empty head or tail"),
    ],
)
def test_query_that_means_nothing_is_refused_where_it_stands(predictor: Predictor, query: Query, said: str) -> None:
    """In a file of thousands the reader has to be told where to look."""
    with pytest.raises(PredictionError, match=said):
        predictor.answers([Query("knows", head="ann", origin="q.tsv:6"), query])


def test_score_is_the_one_among_the_answers(predictor: Predictor, dataset: Dataset) -> None:
    """A triple scored in another way than answers are cannot be held against them."""
    answers = {answer.key: answer.score for answer in predictor.tails("bob", "lives in", dataset.num_entities)}
    assert {key: predictor.score("bob", "lives in", key) for key in answers} == pytest.approx(answers, abs=1e-6)
    long = next(i for i, text in enumerate(dataset.entity_descriptions) if len(text.split()) >= 20)
    text = join_text(dataset.entity_names[long], dataset.entity_descriptions[long], [])
    assert predictor.score("bob", "lives in", text) == pytest.approx(answers[dataset.entity_keys[long]], abs=1e-6)
    assert 1 / predictor.temperature == pytest.approx(predictor.model.inverse_temperature.item())


def test_many_scores_are_those_of_each(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A score beside another triple; or one look at the labels of all entities for each of thousands."""
    triples = [
        ("ann", "lives in", "rome"),
        ("a stranger: who paints", "knows", "ann"),
        ("bob", "lives in", "a town: by the sea"),
        ("ann", "knows", "CARL"),
        ("bob", "knows", "a stranger: who paints"),
    ]
    alone = [predictor.score(*triple) for triple in triples]
    assert predictor.scores(triples) == pytest.approx(alone, abs=1e-6)
    monkeypatch.setattr(predicting, "QUERIES_AT_ONCE", 2)
    looks: list[object] = []

    def look(*given: Any) -> dict[str, list[int]]:
        looks.append(given)
        return places_of(*given)

    monkeypatch.setattr(meanings, "places_of", look)
    assert predictor.scores(triples) == pytest.approx(alone, abs=1e-6)
    assert len(looks) == 1
    assert predictor.scores([]) == []
    with pytest.raises(PredictionError, match=r"^triple 2: 'Springfield' names 2 entities"):
        predictor.scores([triples[0], ("ann", "lives in", "Springfield"), ("Springfield", "knows", "ann")])
