"""Encoding what a ranking needs: every entity once, every distinct query once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raydistill.data.assembly import TextAssembler
from raydistill.data.texts import Texts, fingerprints
from raydistill.evaluation.protocol import LinkPredictionTask
from raydistill.evaluation.report import LinkPredictionReport
from raydistill.evaluation.reranking import NeighborReranking
from raydistill.kg.store import Dataset
from raydistill.kg.triples import IntArray
from raydistill.kg.truth import TruthIndex
from raydistill.models.biencoder import BiEncoder, Tower

_TEXTS_AT_ONCE = 8192
"""Texts put together at a time: bounds the memory of token ids on large graphs."""


def link_prediction_task(dataset: Dataset, split: str) -> LinkPredictionTask:
    """The queries of a split, filtered by all splits."""
    everything = np.concatenate([dataset.train, dataset.valid, dataset.test])
    truth = TruthIndex.from_triples(everything, dataset.num_entities, dataset.num_relations)
    return LinkPredictionTask.from_triples(dataset.split(split), truth, dataset.train, split=split)


def encode_entities(model: BiEncoder, assembler: TextAssembler, num_entities: int) -> Tensor:
    """Vectors of all entities, `(entities, hidden)` float32, normalised; entities of one text get one vector, bit for bit."""
    return _encode_distinct(model, "entity", num_entities, assembler.entity_texts)


def encode_queries(model: BiEncoder, assembler: TextAssembler, heads: IntArray, relations: IntArray) -> Tensor:
    """Vectors of queries, `(queries, hidden)` float32, normalised; `relations` counts inverses from num_relations on."""
    return _encode_distinct(
        model, "query", len(heads), lambda rows: assembler.query_texts(heads[rows], relations[rows])
    )


def _encode_distinct(
    model: BiEncoder, tower: Tower, count: int, texts_of: Callable[[npt.NDArray[np.int64]], Texts]
) -> Tensor:
    """Encode each distinct text once.

    Not only for speed: a text encoded twice, in batches of other shapes, may get vectors that differ in the last bit, and homonyms would no
    longer tie.
    """
    keys = [fingerprints(texts_of(rows)) for rows in _parts(np.arange(count))]
    _, first, place = np.unique(torch.cat(keys).numpy(), return_index=True, return_inverse=True)
    with torch.no_grad():
        vectors = torch.cat([model.encode(texts_of(rows), tower).vectors for rows in _parts(first)])
    return vectors[torch.from_numpy(place.reshape(-1)).to(vectors.device)]


def _parts(rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    return [rows[start : start + _TEXTS_AT_ONCE] for start in range(0, len(rows), _TEXTS_AT_ONCE)]


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
