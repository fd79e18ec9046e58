"""Which triples are known to be true: the filter of evaluation and the mask of false negatives in training.

Every known query (head, relation) and tail becomes one int64 key, inverses included. The sorted keys answer membership
by binary search, and since all tails of a query lie side by side, the same array is the list of known tails.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raydistill.errors import DataError, ShapeError
from raydistill.kg.triples import IntArray, check_ids, query_keys, with_inverses


@dataclass(frozen=True, eq=False)
class TruthIndex:
    """The known-true tails of every query, forward and inverse.

    Attributes:
        keys: `(facts,)` int64, sorted and distinct: query key * number of entities + tail.
        tails: `(facts,)` int32, the tail of each key.
        num_entities: number of entities.
        num_relations: R, without inverses.
    """

    keys: npt.NDArray[np.int64]
    tails: npt.NDArray[np.int32]
    num_entities: int
    num_relations: int

    @classmethod
    def from_triples(cls, triples: IntArray, num_entities: int, num_relations: int) -> TruthIndex:
        """Index triples and their inverses; repeated triples count once.

        Args:
            triples: `(n, 3)`, relations in 0..R-1 (inverses are added here).
            num_entities: number of entities.
            num_relations: R, without inverses.

        Raises:
            DataError: an id is out of range, or the graph is too large for 64-bit keys.
        """
        check_ids(triples, num_entities, num_relations)
        if 2 * num_relations * num_entities**2 > np.iinfo(np.int64).max:
            raise DataError(
                f"{num_entities} entities and {num_relations} relations",
                expected="2 x relations x entities squared below 2^63",
                consequence="different triples would share a key",
                remedy="split the graph",
            )
        both = with_inverses(triples, num_relations)
        keys = np.unique(query_keys(both[:, 0], both[:, 1], num_relations) * num_entities + both[:, 2])
        return cls(keys, (keys % num_entities).astype(np.int32), num_entities, num_relations)

    def __len__(self) -> int:
        return len(self.keys)

    def contains(self, heads: IntArray, relations: IntArray, tails: IntArray) -> npt.NDArray[np.bool_]:
        """Tell for each (head, relation, tail) whether it is known to be true.

        The three arrays broadcast, so `(batch, 1)`, `(batch, 1)` and `(candidates,)` give `(batch, candidates)`. Ids
        outside the graph (new entities, padding of -1) are in no known triple: the answer is False.

        Args:
            heads: entity ids.
            relations: ids in 0..2R-1, inverses included.
            tails: entity ids.

        Raises:
            ShapeError: the shapes do not broadcast.
        """
        queries, inside = self._queries(heads, relations)
        tails = np.asarray(tails)
        tail_inside = (tails >= 0) & (tails < self.num_entities)
        wanted = _broadcast_sum(queries * self.num_entities, tails)
        if len(self.keys) == 0:
            return np.zeros(wanted.shape, dtype=np.bool_)
        position = np.searchsorted(self.keys, wanted)
        found = self.keys[np.minimum(position, len(self.keys) - 1)] == wanted
        result: npt.NDArray[np.bool_] = found & inside & tail_inside
        return result

    def known_tails(self, heads: IntArray, relations: IntArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """List the known-true tails of n queries.

        Args:
            heads: `(n,)` entity ids.
            relations: `(n,)` ids in 0..2R-1, inverses included.

        Returns:
            offsets `(n + 1,)` int64 and tails int32: the tails of query i, in ascending order, are
            `tails[offsets[i]:offsets[i + 1]]`.
        """
        queries, inside = self._queries(heads, relations)
        if queries.ndim != 1:
            raise ShapeError(f"queries of shape {queries.shape}", expected="one head and one relation per query: (n,)")
        start = np.searchsorted(self.keys, queries * self.num_entities)
        stop = np.searchsorted(self.keys, (queries + 1) * self.num_entities)
        counts = np.where(inside, stop - start, 0)
        offsets = np.zeros(len(queries) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        rows = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], counts)
        return offsets, self.tails[rows]

    def _queries(self, heads: IntArray, relations: IntArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        heads, relations = np.asarray(heads), np.asarray(relations)
        _broadcast_sum(heads, relations)
        in_range = (relations >= 0) & (relations < 2 * self.num_relations)
        inside: npt.NDArray[np.bool_] = (heads >= 0) & (heads < self.num_entities) & in_range
        return np.where(inside, query_keys(heads, relations, self.num_relations), 0), inside


def _broadcast_sum(first: IntArray, second: IntArray) -> npt.NDArray[np.int64]:
    try:
        np.broadcast_shapes(first.shape, second.shape)
    except ValueError as error:
        raise ShapeError(f"ids of shapes {first.shape} and {second.shape}", expected="shapes that broadcast") from error
    total: npt.NDArray[np.int64] = first + np.asarray(second, dtype=np.int64)
    return total
