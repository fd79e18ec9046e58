"""Which texts of many are the same. Each is encoded once, and not only for speed: a text encoded twice, in batches of other shapes, may get vectors that differ in
the last bit, and homonyms would no longer tie.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raydistill.data.texts import Texts, fingerprints
from raydistill.evaluation.shards import Workers

Rows = npt.NDArray[np.int64]
TextsOf = Callable[[Rows], Texts]
TEXTS_AT_ONCE = 8192
"""Texts put together at a time: bounds the memory of token ids on large graphs."""


def distinct_texts(count: int, texts_of: TextsOf) -> tuple[Rows, Rows]:
    """The first row of each distinct text, and `(count,)` which distinct text each row has."""
    keys = [fingerprints(texts_of(rows)) for rows in in_parts(np.arange(count))]
    return _first_of_each(torch.cat(keys))


def distinct_texts_together(count: int, texts_of: TextsOf, workers: Workers) -> tuple[Rows, Rows, Tensor]:
    """As `distinct_texts`, on every worker, each having put a part of the texts together; and `(texts,)` int64, the tokens of each distinct one."""
    begin, end = (count * rank // workers.size for rank in (workers.rank, workers.rank + 1))
    found = torch.zeros((2, count), dtype=torch.int64)
    for rows in in_parts(np.arange(begin, end)):
        texts = texts_of(rows)
        found[:, rows[0] : rows[-1] + 1] = torch.stack([fingerprints(texts), texts.lengths])
    # Adding zeros changes no number, and needs no word about who sends how many.
    keys, lengths = workers.total(found)
    first, place = _first_of_each(keys)
    return first, place, lengths[torch.from_numpy(first)]


def in_parts(rows: Rows) -> list[Rows]:
    """Rows whose texts are put together at a time."""
    return [rows[start : start + TEXTS_AT_ONCE] for start in range(0, len(rows), TEXTS_AT_ONCE)]


def _first_of_each(keys: Tensor) -> tuple[Rows, Rows]:
    _, first, place = np.unique(keys.numpy(), return_index=True, return_inverse=True)
    return first, place.reshape(-1)
