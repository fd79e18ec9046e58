from __future__ import annotations

import numpy as np
import pytest

from raydistill.errors import DataError, ShapeError
from raydistill.kg.triples import check_ids, check_shape, inverse_relation, query_keys, with_inverses


def test_inverse_relation_goes_both_ways() -> None:
    """An inverse that is not its own inverse would score head queries against the wrong relation."""
    assert [inverse_relation(r, 3) for r in range(6)] == [3, 4, 5, 0, 1, 2]
    assert inverse_relation(np.arange(6), 3).tolist() == [3, 4, 5, 0, 1, 2]


def test_with_inverses_puts_swapped_rows_after_the_forward_ones() -> None:
    """Rows in another order would pair gradients and metrics of one direction with triples of the other."""
    triples = np.array([[0, 1, 2], [3, 0, 3]], dtype=np.int32)
    both = with_inverses(triples, 2)
    assert both.tolist() == [[0, 1, 2], [3, 0, 3], [2, 3, 0], [3, 2, 3]]
    assert both.dtype == np.int32
    assert triples.tolist() == [[0, 1, 2], [3, 0, 3]]


def test_query_keys_are_distinct_and_do_not_overflow() -> None:
    """Keys in int32 would wrap on a large graph and merge the known tails of two queries."""
    heads, relations = np.meshgrid(np.arange(5), np.arange(6), indexing="ij")
    assert len(np.unique(query_keys(heads, relations, 3))) == 30
    large = query_keys(np.array([2_000_000_000], dtype=np.int32), np.array([5], dtype=np.int32), 1000)
    assert large.dtype == np.int64
    assert large.tolist() == [2_000_000_000 * 2000 + 5]


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1, 2, 3)])
def test_check_shape_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    """A transposed or flattened table would be read as other triples without a sign."""
    with pytest.raises(ShapeError, match="shape"):
        check_shape(np.zeros(shape, dtype=np.int32))


def test_check_shape_refuses_floats() -> None:
    """Fractions would be cut off to ids."""
    with pytest.raises(ShapeError, match="float64"):
        check_shape(np.zeros((2, 3)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("row", "name"), [([5, 0, 0], "head"), ([0, 2, 0], "relation"), ([0, 0, -1], "tail")])
def test_check_ids_names_the_column_out_of_range(row: list[int], name: str) -> None:
    """An id out of range would index the text of another entity (negative ids wrap in numpy)."""
    with pytest.raises(DataError, match=f"{name} ids"):
        check_ids(np.array([[0, 0, 0], row], dtype=np.int32), 5, 2)


def test_no_relation_is_refused() -> None:
    """With R = 0 every inverse would get the id of its relation."""
    with pytest.raises(DataError, match="0 relations"):
        inverse_relation(0, 0)
