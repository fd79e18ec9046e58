"""Encoding what a ranking needs, shared among workers: each puts together and encodes a part of the texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from raydistill.data.assembly import TextAssembler
from raydistill.data.texts import Texts
from raydistill.evaluation.distinct import TEXTS_AT_ONCE, Rows, TextsOf, distinct_texts_together
from raydistill.evaluation.shards import Shard, Workers
from raydistill.kg.triples import IntArray
from raydistill.models.biencoder import BiEncoder, Tower
from raydistill.models.features import Needs

BeforePart = Callable[[int], None]
KeptAs = Callable[[Tensor], Tensor]


def encode_shard(
    model: BiEncoder,
    assembler: TextAssembler,
    num_entities: int,
    workers: Workers,
    before_part: BeforePart | None = None,
    kept_as: KeptAs | None = None,
) -> tuple[Tensor, Shard]:
    """This worker's part of the entities and their vectors, `(own, hidden)`; entities of one text are in one part."""
    place, owners, vectors = _encode_own(model, "entity", num_entities, assembler.entity_texts, workers, before_part)
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

    place, owners, vectors = _encode_own(model, "query", len(heads), texts_of, workers, before_part)
    # Adding zeros changes no vector.
    whole = vectors.new_zeros((len(owners), vectors.shape[1]))
    whole[torch.from_numpy(np.flatnonzero(owners == workers.rank)).to(whole.device)] = vectors
    return workers.total(whole)[torch.from_numpy(place).to(whole.device)]


def _encode_own(
    model: BiEncoder,
    tower: Tower,
    count: int,
    texts_of: TextsOf,
    workers: Workers,
    before_part: BeforePart | None,
) -> tuple[Rows, Rows, Tensor]:
    """Encode this worker's share of distinct texts, in the micro-batches in which one worker alone would encode all.

    A text's vector depends in its last bit on what it is padded with, and ranks shall not depend on the number of workers. Hence whole
    micro-batches are dealt out, back and forth, so that all workers get nearly equally many texts.

    Returns:
        `(count,)` which distinct text each row has, `(texts,)` the worker of each of those, and the vectors of the own ones, `(own, hidden)`, in order.
    """
    first, place, lengths = distinct_texts_together(count, texts_of, workers)
    owners, places, vectors, number = np.zeros(len(first), np.int64), [], [], 0
    device = model.log_inverse_temperature.device
    for start in range(0, len(first), TEXTS_AT_ONCE):
        for part in model.micro_batches(lengths[start : start + TEXTS_AT_ONCE]):
            turn = number % (2 * workers.size)
            owner = min(turn, 2 * workers.size - 1 - turn)
            owners[start + part.numpy()] = owner
            if owner == workers.rank:
                if before_part is not None:
                    before_part(number)
                places.append(start + part)
                with torch.no_grad():
                    vectors.append(model.encode_part(texts_of(first[start + part.numpy()]), tower, Needs()).vectors)
            number += 1
    if not vectors:
        return place, owners, torch.zeros((0, model.hidden_size), device=device)
    return place, owners, torch.cat(vectors)[torch.argsort(torch.cat(places)).to(device)]
