"""Encoding what a ranking needs: every entity once, every distinct query once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from raydistill.data.assembly import TextAssembler
from raydistill.data.texts import Texts
from raydistill.evaluation.distinct import Rows, TextsOf, distinct_texts, in_parts
from raydistill.evaluation.protocol import LinkPredictionTask
from raydistill.evaluation.report import LinkPredictionReport
from raydistill.evaluation.reranking import NeighborReranking
from raydistill.evaluation.shards import Workers
from raydistill.evaluation.sharing import BeforePart, KeptAs, encode_queries_together, encode_shard
from raydistill.kg.store import Dataset
from raydistill.kg.triples import IntArray
from raydistill.kg.truth import TruthIndex
from raydistill.models.biencoder import BiEncoder, Tower


def link_prediction_task(dataset: Dataset, split: str) -> LinkPredictionTask:
    """The queries of a split, filtered by all splits."""
    everything = np.concatenate([dataset.train, dataset.valid, dataset.test])
    truth = TruthIndex.from_triples(everything, dataset.num_entities, dataset.num_relations)
    return LinkPredictionTask.from_triples(dataset.split(split), truth, dataset.train, split=split)


def encode_entities(
    model: BiEncoder,
    assembler: TextAssembler,
    num_entities: int,
    before_part: BeforePart | None = None,
    kept_as: KeptAs | None = None,
) -> Tensor:
    """Vectors of all entities, `(entities, hidden)` float32, normalised; entities of one text get one vector, bit for bit."""
    return _encode_distinct(model, "entity", num_entities, assembler.entity_texts, before_part, kept_as)


def encode_entities_in_parts(
    model: BiEncoder, assembler: TextAssembler, num_entities: int
) -> tuple[Iterator[Tensor], Rows]:
    """Vectors of the distinct texts of all entities, encoded when they are asked for, and `(entities,)` which of them each entity has."""
    return _encode_in_parts(model, "entity", num_entities, assembler.entity_texts, None)


def encode_queries(
    model: BiEncoder,
    assembler: TextAssembler,
    heads: IntArray,
    relations: IntArray,
    before_part: BeforePart | None = None,
) -> Tensor:
    """Vectors of queries, `(queries, hidden)` float32, normalised; `relations` counts inverses from num_relations on."""

    def texts_of(rows: Rows) -> Texts:
        return assembler.query_texts(heads[rows], relations[rows])

    return _encode_distinct(model, "query", len(heads), texts_of, before_part)


def _encode_distinct(
    model: BiEncoder,
    tower: Tower,
    count: int,
    texts_of: TextsOf,
    before_part: BeforePart | None,
    kept_as: KeptAs | None = None,
) -> Tensor:
    parts, place = _encode_in_parts(model, tower, count, texts_of, before_part)
    kept = (part if kept_as is None else kept_as(part) for part in parts)
    return _placed(kept, place)


def _placed(parts: Iterator[Tensor], place: Rows) -> Tensor:
    """The rows of parts one after another, each wherever `place` names it: written there as soon as they come, so that no more than one part is held twice."""
    order = np.argsort(place, kind="stable")
    ordered, first, whole = place[order], 0, None
    for part in parts:
        if whole is None:
            whole = part.new_empty((len(place), *part.shape[1:]))
        begin, end = np.searchsorted(ordered, (first, first + len(part)))
        rows, own = (torch.from_numpy(some[begin:end]).to(part.device) for some in (order, ordered))
        whole[rows] = part[own - first]
        first += len(part)
    assert whole is not None, "there is nothing to encode"
    return whole


def _encode_in_parts(
    model: BiEncoder, tower: Tower, count: int, texts_of: TextsOf, before_part: BeforePart | None
) -> tuple[Iterator[Tensor], Rows]:
    first, place = distinct_texts(count, texts_of)

    def encoded(rows: Rows) -> Tensor:
        with torch.no_grad():
            return model.encode(texts_of(rows), tower, before_part=before_part).vectors

    return (encoded(rows) for rows in in_parts(first)), place


def evaluate(
    model: BiEncoder,
    assembler: TextAssembler,
    task: LinkPredictionTask,
    *,
    rerank: NeighborReranking | None = None,
    workers: Workers | None = None,
    before_part: BeforePart | None = None,
    kept_as: KeptAs | None = None,
) -> LinkPredictionReport:
    """Rank every entity for every query of `task` with the vectors of `model`.

    The model is put into evaluation mode for the time of the call. With several workers each encodes and ranks a part of the entities; all must
    call, with equal models, and all get the report that one alone would get. `before_part` is called before each micro-batch that is encoded;
    `kept_as` gives what is left of entity vectors, `(some, hidden)`, row by row, where they are kept in fewer bits.
    """
    training = model.training
    model.eval()
    try:
        if workers is None or workers.size == 1:
            entities, shard = encode_entities(model, assembler, task.num_entities, before_part, kept_as), None
            queries = encode_queries(model, assembler, task.distinct_heads, task.distinct_relations, before_part)
        else:
            entities, shard = encode_shard(model, assembler, task.num_entities, workers, before_part, kept_as)
            queries = encode_queries_together(
                model, assembler, task.distinct_heads, task.distinct_relations, workers, before_part
            )
    finally:
        model.train(training)
    return task.evaluate(queries, entities, rerank=rerank, shard=shard)
