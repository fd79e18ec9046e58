"""Entities divided among workers that rank together: each ranks its part, and counts add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from raydistill.kg.triples import IntArray


class Workers(Protocol):
    """Those who rank together."""

    @property
    def rank(self) -> int:
        """This worker's number, from zero."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def total(self, tensor: Tensor) -> Tensor:
        """Element-wise sum over the workers' tensors, which have one shape and type."""
        ...


@dataclass(frozen=True, eq=False)
class Shard:
    """One worker's part of the entities. Ranking wants it to be a run of ids, so entities are numbered anew: part after part.

    Attributes:
        entities: `(own,)` int64, this worker's entities, in the order of their vectors.
        places: `(entities,)` int64, the new number of every entity; None where they keep their numbers.
        first: new number of this worker's first entity.
        total: adds up over the workers; None for a worker alone.
    """

    entities: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64] | None = None
    first: int = 0
    total: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def whole(cls, num_entities: int) -> Shard:
        """All entities, for a worker alone."""
        return cls(np.arange(num_entities))

    @classmethod
    def of_owners(cls, owners: npt.NDArray[np.int64], workers: Workers) -> Shard:
        """This worker's part where entity i belongs to worker `owners[i]`; every worker must know the same owners."""
        order = np.argsort(owners, kind="stable")
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        first, stop = np.searchsorted(owners[order], [workers.rank, workers.rank + 1])
        return cls(order[first:stop], places, int(first), workers.total)

    def places_of(self, entities: IntArray) -> IntArray:
        """The new numbers of entities."""
        return entities if self.places is None else self.places[entities]
