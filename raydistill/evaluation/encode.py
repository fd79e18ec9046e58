"""Encoding what a ranking needs: every entity once, every distinct query once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from raydistill.data.assembly import TextAssembler
from raydistill.evaluation.protocol import LinkPredictionTask
from raydistill.evaluation.report import LinkPredictionReport
from raydistill.evaluation.reranking import NeighborReranking
from raydistill.kg.store import Dataset
from raydistill.kg.truth import TruthIndex
from raydistill.models.biencoder import BiEncoder

_TEXTS_AT_ONCE = 8192
"""Texts put together at a time: bounds the memory of token ids on large graphs."""


def link_prediction_task(dataset: Dataset, split: str) -> LinkPredictionTask:
    """The queries of a split, filtered by all splits."""
    everything = np.concatenate([dataset.train, dataset.valid, dataset.test])
    truth = TruthIndex.from_triples(everything, dataset.num_entities, dataset.num_relations)
    return LinkPredictionTask.from_triples(dataset.split(split), truth, dataset.train, split=split)


def encode_entities(model: BiEncoder, assembler: TextAssembler, num_entities: int) -> Tensor:
    """Vectors of all entities, `(entities, hidden)` float32, normalised."""
    with torch.no_grad():
        parts = [
            model.encode(
                assembler.entity_texts(np.arange(start, min(start + _TEXTS_AT_ONCE, num_entities))), "entity"
            ).vectors
            for start in range(0, num_entities, _TEXTS_AT_ONCE)
        ]
    return torch.cat(parts)


def encode_queries(model: BiEncoder, assembler: TextAssembler, heads: np.ndarray, relations: np.ndarray) -> Tensor:
    """Vectors of queries, `(queries, hidden)` float32, normalised; `relations` counts inverses from num_relations on."""
    with torch.no_grad():
        parts = [
            model.encode(
                assembler.query_texts(heads[start : start + _TEXTS_AT_ONCE], relations[start : start + _TEXTS_AT_ONCE]),
                "query",
            ).vectors
            for start in range(0, len(heads), _TEXTS_AT_ONCE)
        ]
    return torch.cat(parts)


def evaluate(
    model: BiEncoder,
    assembler: TextAssembler,
    task: LinkPredictionTask,
    *,
    rerank: NeighborReranking | None = None,
) -> LinkPredictionReport:
    """Rank every entity for every query of `task` with the vectors of `model`.

    The model is put into evaluation mode for the time of the call.
    """
    training = model.training
    model.eval()
    try:
        entities = encode_entities(model, assembler, task.num_entities)
        queries = encode_queries(model, assembler, task.distinct_heads, task.distinct_relations)
    finally:
        model.train(training)
    return task.evaluate(queries, entities, rerank=rerank)
