"""Encoding what a ranking needs: every entity once, every distinct query once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raydistill.data.assembly import TextAssembler
from raydistill.data.texts import Texts, fingerprints
from raydistill.evaluation.protocol import LinkPredictionTask
from raydistill.evaluation.report import LinkPredictionReport
from raydistill.evaluation.reranking import NeighborReranking
from raydistill.evaluation.shards import Shard, Workers
from raydistill.kg.store import Dataset
from raydistill.kg.triples import IntArray
from raydistill.kg.truth import TruthIndex
from raydistill.models.biencoder import BiEncoder, Tower
from raydistill.models.features import Needs

Rows = npt.NDArray[np.int64]
TextsOf = Callable[[Rows], Texts]
BeforePart = Callable[[int], None]
KeptAs = Callable[[Tensor], Tensor]
_TEXTS_AT_ONCE = 8192
"""Texts put together at a time: bounds the memory of token ids on large graphs."""


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
    """Encode each distinct text once.

    Not only for speed: a text encoded twice, in batches of other shapes, may get vectors that differ in the last bit, and homonyms would no
    longer tie.
    """
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

    return (encoded(rows) for rows in _parts(first)), place


def distinct_texts(count: int, texts_of: TextsOf) -> tuple[Rows, Rows]:
    """The first row of each distinct text, and `(count,)` which distinct text each row has."""
    keys = [fingerprints(texts_of(rows)) for rows in _parts(np.arange(count))]
    _, first, place = np.unique(torch.cat(keys).numpy(), return_index=True, return_inverse=True)
    return first, place.reshape(-1)


def _parts(rows: Rows) -> list[Rows]:
    return [rows[start : start + _TEXTS_AT_ONCE] for start in range(0, len(rows), _TEXTS_AT_ONCE)]


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


def encode_shard(
    model: BiEncoder,
    assembler: TextAssembler,
    num_entities: int,
    workers: Workers,
    before_part: BeforePart | None = None,
    kept_as: KeptAs | None = None,
) -> tuple[Tensor, Shard]:
    """This worker's part of the entities and their vectors, `(own, hidden)`; entities of one text are in one part."""
    first, place = distinct_texts(num_entities, assembler.entity_texts)
    owners, vectors = _encode_own(model, "entity", first, assembler.entity_texts, workers, before_part)
    shard = Shard.of_owners(owners[place], workers)
    if kept_as and len(vectors):
        vectors = kept_as(vectors)
    own_texts = np.flatnonzero(owners == workers.rank)
    rows = np.searchsorted(own_texts, place[shard.entities])
    return vectors[torch.from_numpy(rows).to(vectors.device)], shard


def encode_queries_together(
    model: BiEncoder,
    assembler: TextAssembler,
    heads: IntArray,
    relations: IntArray,
    workers: Workers,
    before_part: BeforePart | None = None,
) -> Tensor:
    """What `encode_queries` gives, on every worker, each having encoded a part."""

    def texts_of(rows: Rows) -> Texts:
        return assembler.query_texts(heads[rows], relations[rows])

    first, place = distinct_texts(len(heads), texts_of)
    owners, vectors = _encode_own(model, "query", first, texts_of, workers, before_part)
    # Adding zeros changes no vector, and needs no word about who sends how many.
    whole = vectors.new_zeros((len(first), vectors.shape[1]))
    whole[torch.from_numpy(np.flatnonzero(owners == workers.rank)).to(whole.device)] = vectors
    return workers.total(whole)[torch.from_numpy(place).to(whole.device)]


def _encode_own(
    model: BiEncoder,
    tower: Tower,
    rows: Rows,
    texts_of: TextsOf,
    workers: Workers,
    before_part: BeforePart | None,
) -> tuple[Rows, Tensor]:
    """Encode this worker's share of distinct texts, in the micro-batches in which one worker alone would encode all.

    A text's vector depends in its last bit on what it is padded with, and ranks shall not depend on the number of workers. Hence whole
    micro-batches are dealt out, back and forth, so that all workers get nearly equally many texts.

    Returns:
        `(texts,)` the worker of each text, and the vectors of the own ones, `(own, hidden)`, in the order of `rows`.
    """
    owners, places, vectors, number, start = np.zeros(len(rows), np.int64), [], [], 0, 0
    device = model.log_inverse_temperature.device
    for some in _parts(rows):
        texts = texts_of(some)
        for part in model.micro_batches(texts.lengths):
            turn = number % (2 * workers.size)
            owner = min(turn, 2 * workers.size - 1 - turn)
            owners[start + part.numpy()] = owner
            if owner == workers.rank:
                if before_part is not None:
                    before_part(number)
                places.append(start + part)
                with torch.no_grad():
                    vectors.append(model.encode_part(texts.select(part), tower, Needs()).vectors)
            number += 1
        start += len(some)
    if not vectors:
        return owners, torch.zeros((0, model.hidden_size), device=device)
    return owners, torch.cat(vectors)[torch.argsort(torch.cat(places)).to(device)]
