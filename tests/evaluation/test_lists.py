"""Lists per row as offsets and ids."""

from __future__ import annotations

import numpy as np

from raydistill.evaluation.lists import offsets_of, select_lists


def test_select_lists_by_hand() -> None:
    """Empty lists, repeated rows and another order are where flat positions go wrong."""
    offsets, ids = offsets_of(np.array([2, 0, 3])), np.array([10, 11, 30, 31, 32], dtype=np.int32)
    chosen_offsets, chosen = select_lists(offsets, ids, np.array([2, 1, 0, 0]))
    assert chosen_offsets.tolist() == [0, 3, 3, 5, 7]
    assert chosen.tolist() == [30, 31, 32, 10, 11, 10, 11]
    assert chosen.dtype == np.int32


def test_select_no_list() -> None:
    """No row is one offset and no id."""
    offsets, ids = select_lists(offsets_of(np.array([2])), np.array([1, 2]), np.zeros(0, dtype=np.int64))
    assert (offsets.tolist(), ids.tolist()) == ([0], [])
