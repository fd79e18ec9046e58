"""Answers to single queries: for keys, names and new text, and refusals where the question has no one meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from raydistill.errors import PredictionError
from raydistill.evaluation.encode import encode_queries, link_prediction_task
from raydistill.kg.store import Dataset
from raydistill.kg.text import join_text
from raydistill.shipping.predictor import Predictor


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
    assert torch.allclose(predictor._encode_new(text, 0), inside, atol=1e-6)
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
