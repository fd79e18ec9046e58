"""The best of all entities, for a block of queries at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from raydistill.kg.triples import IntArray
from raydistill.shipping.entities import EntityVectors

SCORES_AT_ONCE = 2**25
"""Of a block, in float32: bounds the memory beside the vectors, 128 MiB. A single query may have more."""


def best_of(
    queries: Tensor, vectors: EntityVectors, known: Sequence[IntArray], k: int, *, new: bool
) -> Iterator[list[tuple[int, float]]]:
    """Entity and score of the best answers to each query, best first, in the order of the queries.

    Args:
        queries: `(queries, hidden)`.
        vectors: of all entities; each part of them is looked at once for a block of queries, not once for each.
        known: for each query the entities that the graph knows as answers, each once.
        k: how many; fewer where there are no more.
        new: leave out the known ones.
    """
    at_once = max(1, SCORES_AT_ONCE // len(vectors))
    for start in range(0, len(queries), at_once):
        scores, some = vectors.scores(queries[start : start + at_once]), known[start : start + at_once]
        if new:
            for row, places in zip(scores, some, strict=True):
                row[torch.from_numpy(places.astype(np.int64)).to(row.device)] = -torch.inf
        best = torch.topk(scores, min(k, len(vectors)))
        for places, values, answers in zip(best.indices, best.values, some, strict=True):
            count = min(k, len(vectors) - (len(answers) if new else 0))
            yield list(zip(places[:count].tolist(), values[:count].tolist(), strict=True))
