"""Batches of triples in which every distinct text stands once, and the source that deals the training triples into batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydistill.data.assembly import TextAssembler
from raydistill.data.micro_batches import longest_first
from raydistill.data.texts import Texts
from raydistill.devices import KeepsSent
from raydistill.kg.triples import with_inverses
from raydistill.kg.truth import TruthIndex

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class TripleBatch(KeepsSent):
    """Examples as rows and columns of one score table of distinct queries by distinct candidates.

    Args:
        queries: distinct query texts, in falling order of length, in which encoders take them on a processor.
        candidates: distinct candidate texts, likewise; the first `num_columns` are columns, the rest are heads that serve as self-negatives.
        rows: `(batch,)` int64, the query of each example.
        columns: `(batch,)` int64, the candidate that answers it.
        valid_rows: `(batch, columns)` bool, True = this candidate may be compared with the example's answer.
        valid_columns: `(batch, queries)` bool, True = this query may be compared with the example's query for its answer.
        column_entities: `(columns,)` entity of each column.
        self_positions: `(batch,)` position of each example's head among `candidates`, or None.
        self_valid: `(batch,)` bool, or None.
        extra_valid: `(batch, extra)` bool: may an earlier batch's candidate be compared, or None.
        relations: `(batch,)` relation of each example's query; inverses count from num_relations on.
    """

    queries: Texts
    candidates: Texts
    rows: Tensor
    columns: Tensor
    valid_rows: Tensor
    valid_columns: Tensor
    column_entities: Ids
    relations: Ids
    self_positions: Tensor | None = None
    self_valid: Tensor | None = None
    extra_valid: Tensor | None = None

    @property
    def num_columns(self) -> int:
        """Candidates that are columns of the score table."""
        return len(self.column_entities)

    def __len__(self) -> int:
        return int(self.rows.shape[0])


class BatchBuilder:
    """Turns triples into a `TripleBatch`.

    Args:
        assembler: puts the texts together.
        truth: known-true index of the *training* triples: what is true elsewhere may not be known while training.
        num_relations: relations, inverses not counted.
        self_negatives: add each query's head as one more candidate.
    """

    def __init__(
        self, assembler: TextAssembler, truth: TruthIndex, num_relations: int, self_negatives: bool = False
    ) -> None:
        self.assembler, self.truth = assembler, truth
        self.num_relations, self.self_negatives = num_relations, self_negatives

    def build(self, triples: NDArray[np.int32], extra_entities: Ids | None = None) -> TripleBatch:
        """One batch; `extra_entities` are the entities of earlier batches' candidates, in the order of their vectors."""
        heads, relations, tails = np.asarray(triples, np.int64).T
        query_keys, rows = _distinct(heads, relations, self.assembler.effective_exclusion(heads, tails, relations))
        candidate_keys, columns = _distinct(tails, self.assembler.effective_exclusion(tails, heads))
        queries, query_keys, rows = _longest_first(
            self.assembler.query_texts(query_keys[:, 0], query_keys[:, 1], query_keys[:, 2]), query_keys, rows
        )
        candidates, candidate_keys, columns = _longest_first(
            self.assembler.entity_texts(candidate_keys[:, 0], candidate_keys[:, 1]), candidate_keys, columns
        )
        self_positions = None
        if self.self_negatives:
            head_keys, heads_at = _distinct(heads, self.assembler.effective_exclusion(heads, tails))
            candidates = candidates.followed_by(self.assembler.entity_texts(head_keys[:, 0], head_keys[:, 1]))
            self_positions = torch.from_numpy(heads_at + len(candidate_keys))
        true = self._known(query_keys[:, 0], query_keys[:, 1], candidate_keys[:, 0])
        valid_rows, valid_columns = ~true[rows], ~true[:, columns].T
        valid_rows[np.arange(len(rows)), columns] = True
        valid_columns[np.arange(len(rows)), rows] = True
        return TripleBatch(
            queries=queries,
            candidates=candidates,
            rows=torch.from_numpy(rows),
            columns=torch.from_numpy(columns),
            valid_rows=torch.from_numpy(valid_rows),
            valid_columns=torch.from_numpy(np.ascontiguousarray(valid_columns)),
            column_entities=candidate_keys[:, 0],
            relations=relations,
            self_positions=self_positions,
            self_valid=None
            if self_positions is None
            else torch.from_numpy(~self.truth.contains(heads, relations, heads)),
            extra_valid=None
            if extra_entities is None
            else torch.from_numpy(~self._known(heads, relations, extra_entities)),
        )

    def all_texts(self, triples: NDArray[np.int32]) -> tuple[Texts, Texts]:
        """The distinct queries and candidates that any batch of these triples can hold."""
        heads, relations, tails = np.asarray(triples, np.int64).T
        queries, _ = _distinct(heads, relations, self.assembler.effective_exclusion(heads, tails, relations))
        candidates, _ = _distinct(tails, self.assembler.effective_exclusion(tails, heads))
        return (
            self.assembler.query_texts(queries[:, 0], queries[:, 1], queries[:, 2]),
            self.assembler.entity_texts(candidates[:, 0], candidates[:, 1]),
        )

    def _known(self, heads: Ids, relations: Ids, entities: Ids) -> NDArray[np.bool_]:
        """Which of `entities` are known answers of which query, `(queries, entities)`: from the answers' lists, not from all pairs."""
        offsets, tails = self.truth.known_tails(heads, relations)
        row = np.repeat(np.arange(len(heads)), np.diff(offsets))
        distinct, position = np.unique(entities, return_inverse=True)
        known = np.zeros((len(heads), len(distinct)), bool)
        place = np.searchsorted(distinct, tails)
        place[place == len(distinct)] = 0
        hit = distinct[place] == tails if len(distinct) else np.zeros(len(tails), bool)
        known[row[hit], place[hit]] = True
        return known[:, position]


class Source(Protocol):
    """Where the examples come from."""

    @property
    def triples(self) -> NDArray[np.int32] | None:
        """All examples there can be, `(examples, 3)`, whose texts come again every epoch; None where new ones are made up all the time."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; equally many in all of them."""
        ...

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[NDArray[np.int32]]:
        """The batches of an epoch (from 0) from `first_step` on, each `(batch, 3)`; a function of epoch and step alone."""
        ...


class TripleSource:
    """Training triples in both directions, dealt into batches of nearly equal size, in an order that seed and epoch determine."""

    def __init__(self, triples: NDArray[np.int32], num_relations: int, batch_size: int, seed: int) -> None:
        self.triples = with_inverses(triples, num_relations)
        self.batch_size, self.seed = batch_size, seed

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch; the last ones are not smaller than the others by more than one example."""
        return max(1, -(-len(self.triples) // self.batch_size))

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[NDArray[np.int32]]:
        """The batches of an epoch from `first_step` on, each `(batch, 3)`."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.triples))
        for part in np.array_split(order, self.steps_per_epoch)[first_step:]:
            yield self.triples[part]


def _distinct(*columns: Ids) -> tuple[Ids, Ids]:
    """Distinct rows of the columns side by side, and the position of each row among them."""
    keys, positions = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    return keys, positions.reshape(-1)


def _longest_first(texts: Texts, keys: Ids, positions: Ids) -> tuple[Texts, Ids, Ids]:
    """Texts in falling order of length, with the key of each, and where each example's text now is."""
    order = longest_first(texts.lengths)
    place = np.empty(len(order), np.int64)
    place[order.numpy()] = np.arange(len(order))
    return texts.select(order), keys[order.numpy()], place[positions]
