"""Encoding what a ranking needs, shared among workers: each puts together and encodes a part of the texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
    first, place, lengths = distinct_texts_together(num_entities, assembler.entity_texts, workers)
    deal = Deal.of(model, lengths, workers)
    shard = Shard.of_owners(deal.owners[place], workers)
    texts = place[shard.entities]
    order = np.argsort(texts, kind="stable")
    ordered, whole = texts[order], None
    for own, vectors in deal.encoded(model, "entity", first, assembler.entity_texts, before_part):
        kept = vectors if kept_as is None else kept_as(vectors)
        if whole is None:
            whole = kept.new_empty((len(texts), *kept.shape[1:]))
        # Written there as soon as they come, so that no more than one micro-batch is held twice.
        source, found = _rows_of(own, ordered)
        whole[torch.from_numpy(order[found]).to(kept.device)] = kept[torch.from_numpy(source).to(kept.device)]
    return torch.zeros((0, model.hidden_size), device=_device(model)) if whole is None else whole, shard


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

    first, place, lengths = distinct_texts_together(len(heads), texts_of, workers)
    # Adding zeros changes no vector.
    whole = torch.zeros((len(first), model.hidden_size), device=_device(model))
    for own, vectors in Deal.of(model, lengths, workers).encoded(model, "query", first, texts_of, before_part):
        whole[torch.from_numpy(own).to(whole.device)] = vectors
    return workers.total(whole)[torch.from_numpy(place).to(whole.device)]


@dataclass(frozen=True, eq=False)
class Deal:
    """Who encodes which of the distinct texts, in the micro-batches in which one worker alone would encode all.

    A text's vector depends in its last bit on what it is padded with, and ranks shall not depend on the number of workers. Hence whole
    micro-batches are dealt out, back and forth, so that all workers get nearly equally many texts.

    Attributes:
        owners: `(texts,)` int64, the worker of each text.
        own: texts of this worker's micro-batches, each with the number it has among all.
    """

    owners: Rows
    own: tuple[tuple[int, Rows], ...]

    @classmethod
    def of(cls, model: BiEncoder, lengths: Tensor, workers: Workers) -> Deal:
        """The deal of texts of so many tokens; every worker must know the same lengths."""
        owners, own, number = np.zeros(len(lengths), np.int64), [], 0
        for start in range(0, len(lengths), TEXTS_AT_ONCE):
            for part in model.micro_batches(lengths[start : start + TEXTS_AT_ONCE]):
                texts, turn = start + part.numpy(), number % (2 * workers.size)
                owners[texts] = owner = min(turn, 2 * workers.size - 1 - turn)
                if owner == workers.rank:
                    own.append((number, texts))
                number += 1
        return cls(owners, tuple(own))

    def encoded(
        self, model: BiEncoder, tower: Tower, first: Rows, texts_of: TextsOf, before_part: BeforePart | None
    ) -> Iterator[tuple[Rows, Tensor]]:
        """The texts of each of this worker's micro-batches, and their vectors, `(some, hidden)`; `first` is a row of each text."""
        for number, texts in self.own:
            if before_part is not None:
                before_part(number)
            with torch.no_grad():
                vectors = model.encode_part(texts_of(first[texts]), tower, Needs()).vectors
            yield texts, vectors


def _rows_of(texts: Rows, ordered: Rows) -> tuple[Rows, Rows]:
    """Where a sorted list has each of some texts, as often as it has it: positions among the texts, and in the list."""
    begin, end = (np.searchsorted(ordered, texts, side) for side in ("left", "right"))
    counts = end - begin
    source = np.repeat(np.arange(len(texts)), counts)
    within = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
    return source, begin[source] + within


def _device(model: BiEncoder) -> torch.device:
    return model.log_inverse_temperature.device
