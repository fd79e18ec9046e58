"""Kept outputs of a teacher, looked up by text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raydistill.data.texts import runs
from raydistill.teachers.shards import Shard


class Table:
    """Shards as one table.

    Args:
        shards: of distinct texts.
    """

    def __init__(self, shards: list[Shard]) -> None:
        self.shards = shards
        keys = np.concatenate([shard.fingerprints for shard in shards])
        self.order = np.argsort(keys, kind="stable")
        self.keys = keys[self.order]
        self.first = np.cumsum([0, *(len(shard.fingerprints) for shard in shards)])

    def rows(self, keys: Tensor) -> NDArray[np.int64] | None:
        """Where texts stand; None where one is missing."""
        wanted = keys.numpy()
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        if not len(self.keys) or not np.array_equal(self.keys[place], wanted):
            return None
        return self.order[place]

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """`(texts, hidden)`."""
        found = np.empty((len(rows), self.shards[0].vectors.shape[1]), np.float32)
        for shard, here, local in self._by_shard(rows):
            found[here] = shard.vectors[local]
        return found

    def states(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of the kept tokens of texts, one text after another, `(kept tokens, columns, hidden)`."""
        counts = np.zeros(len(rows), np.int64)
        for shard, here, local in self._by_shard(rows):
            counts[here] = shard.offsets[local + 1] - shard.offsets[local]
        starts = np.cumsum(counts) - counts
        found = np.empty((int(counts.sum()), *self.shards[0].states.shape[1:]), np.float32)
        for shard, here, local in self._by_shard(rows):
            source = runs(shard.offsets[local], counts[here])
            found[runs(starts[here], counts[here])] = shard.states[source]
        return found

    def _by_shard(self, rows: NDArray[np.int64]) -> Iterator[tuple[Shard, NDArray[np.int64], NDArray[np.int64]]]:
        owners = np.searchsorted(self.first, rows, side="right") - 1
        for number in np.unique(owners):
            here = np.flatnonzero(owners == number)
            yield self.shards[number], here, rows[here] - self.first[number]
