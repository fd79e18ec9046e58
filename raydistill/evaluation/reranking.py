"""SimKGC's neighbour re-ranking: candidates near the query's head in the training graph get a bonus.

It uses the graph and not the text, so numbers made with it are never mixed with numbers made without: their names end
in `+neighbors`.

The search goes breadth first from many heads at once: a table (heads, entities) says what has been reached; the
neighbours of the whole frontier are gathered in one step. Heads are taken in blocks, so that neither the table nor the
gathered neighbours outgrow a fixed budget.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raydistill.errors import ConfigError, DataError
from raydistill.evaluation.lists import offsets_of, select_lists, spread_ranges
from raydistill.kg.triples import IntArray, check_ids

_BUDGET_BYTES = 2**26


@dataclass(frozen=True, eq=False)
class NeighborReranking:
    """The training graph without directions, and how far and how much it counts.

    Attributes:
        offsets: `(entities + 1,)` int64; the neighbours of entity i are `neighbors[offsets[i]:offsets[i + 1]]`.
        neighbors: entity ids int64, ascending and distinct per entity.
        hops: how many steps from the head a candidate may be; the head itself is at 0 steps and counts.
        bonus: added to the score of each such candidate.
        max_entities: a head that reaches more than this gets no bonus at all.
    """

    offsets: npt.NDArray[np.int64]
    neighbors: npt.NDArray[np.int64]
    hops: int
    bonus: float
    max_entities: int

    @classmethod
    def from_triples(
        cls, train: IntArray, num_entities: int, *, hops: int = 2, bonus: float = 0.05, max_entities: int = 100_000
    ) -> NeighborReranking:
        """Build the graph of the training triples.

        Args:
            train: `(n, 3)` training triples; never those of the split to be ranked.
            num_entities: number of entities.
            hops: SimKGC takes 5 for WN18RR and 2 elsewhere.
            bonus: SimKGC takes 0.05, on cosines.
            max_entities: SimKGC's limit.

        Raises:
            ConfigError: hops or max_entities are below 1, or the bonus is not a finite positive number.
            DataError: an id is out of range.

        Source: SimKGC, Wang et al. 2022, arXiv 2203.02167, section 3.4; limit and the head itself as in its code.
        """
        if hops < 1 or max_entities < 1 or not (np.isfinite(bonus) and bonus > 0.0):
            raise ConfigError(
                f"re-ranking with hops={hops}, bonus={bonus}, max_entities={max_entities}",
                expected="at least 1 hop, a finite positive bonus, at least 1 entity",
                consequence="numbers would be called re-ranked that are not",
                remedy="leave re-ranking off",
            )
        check_ids(train, num_entities, int(train[:, 1].max()) + 1 if len(train) else 1)
        one_way = train[:, 0].astype(np.int64) * num_entities + train[:, 2]
        other_way = train[:, 2].astype(np.int64) * num_entities + train[:, 0]
        keys = np.unique(np.concatenate((one_way, other_way)))
        offsets = np.searchsorted(keys, np.arange(num_entities + 1, dtype=np.int64) * num_entities)
        return cls(offsets.astype(np.int64), keys % num_entities, hops, bonus, max_entities)

    @property
    def num_entities(self) -> int:
        """Number of entities of the graph."""
        return len(self.offsets) - 1

    def within_reach(self, heads: IntArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """List all entities at most `hops` steps from each head, the head included.

        Args:
            heads: `(n,)` entity ids.

        Returns:
            offsets `(n + 1,)` and entity ids, ascending per head, both int64.

        Raises:
            DataError: an id is out of range.
        """
        if len(heads) and (heads.min() < 0 or heads.max() >= self.num_entities):
            raise DataError(
                f"heads from {heads.min()} to {heads.max()}",
                expected=f"entity ids below {self.num_entities}",
                consequence="the neighbours of other entities would get the bonus",
                remedy="build the re-ranking from the graph that is ranked",
            )
        distinct, row_of_head = np.unique(heads, return_inverse=True)
        counts, entities = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for reached in self._reached_blocks(distinct.astype(np.int64)):
            reached[reached.sum(axis=1) > self.max_entities] = False
            counts.append(reached.sum(axis=1))
            entities.append(np.flatnonzero(reached) % self.num_entities)
        return select_lists(offsets_of(np.concatenate(counts)), np.concatenate(entities), row_of_head)

    def _reached_blocks(self, heads: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.bool_]]:
        largest_step = 8 * len(self.neighbors)  # all neighbours of all entities, as int64
        size = max(1, _BUDGET_BYTES // max(1, largest_step + self.num_entities))
        for start in range(0, len(heads), size):
            block = heads[start : start + size]
            reached = np.zeros((len(block), self.num_entities), dtype=np.bool_)
            rows, entities = np.arange(len(block)), block
            reached[rows, entities] = True
            for _ in range(self.hops):
                rows, entities = self._step(rows, entities, reached)
            yield reached

    def _step(
        self, rows: npt.NDArray[np.int64], entities: npt.NDArray[np.int64], reached: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Mark the neighbours of the frontier in reached, and return those that are new."""
        places, lengths = spread_ranges(self.offsets[entities], self.offsets[entities + 1])
        new = np.zeros_like(reached)
        new[np.repeat(rows, lengths), self.neighbors[places]] = True
        new &= ~reached
        reached |= new
        new_rows, new_entities = np.nonzero(new)
        return new_rows, new_entities
