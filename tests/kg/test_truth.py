from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydistill.errors import DataError, ShapeError
from raydistill.kg.truth import TruthIndex

ENTITIES, RELATIONS = 6, 3
TABLE = st.lists(
    st.tuples(st.integers(0, ENTITIES - 1), st.integers(0, RELATIONS - 1), st.integers(0, ENTITIES - 1)), max_size=30
)


def _index(rows: list[tuple[int, int, int]]) -> tuple[TruthIndex, set[tuple[int, int, int]]]:
    facts = set(rows) | {(tail, relation + RELATIONS, head) for head, relation, tail in rows}
    triples = np.array(rows, dtype=np.int32).reshape(-1, 3)
    return TruthIndex.from_triples(triples, ENTITIES, RELATIONS), facts


@settings(max_examples=60, deadline=None)
@given(TABLE)
def test_contains_agrees_with_a_set(rows: list[tuple[int, int, int]]) -> None:
    """A wrong answer leaves a known-true rival in a ranking, or takes the asked one out."""
    index, facts = _index(rows)
    ranges = (np.arange(-1, ENTITIES + 1), np.arange(-1, 2 * RELATIONS + 1), np.arange(-1, ENTITIES + 1))
    heads, relations, tails = np.meshgrid(*ranges, indexing="ij")
    found = index.contains(heads, relations, tails)
    expected = [
        fact in facts for fact in zip(*(part.ravel().tolist() for part in (heads, relations, tails)), strict=True)
    ]
    assert found.ravel().tolist() == expected
    assert len(index) == len(facts)


@settings(max_examples=60, deadline=None)
@given(TABLE)
def test_known_tails_agree_with_a_set(rows: list[tuple[int, int, int]]) -> None:
    """A shifted offset would give each query its neighbour's known tails."""
    index, facts = _index(rows)
    queries = [(head, relation) for head in range(-1, ENTITIES + 1) for relation in range(-1, 2 * RELATIONS + 1)]
    heads, relations = np.array(queries, dtype=np.int64).T
    offsets, tails = index.known_tails(heads, relations)
    for row, query in enumerate(queries):
        expected = sorted(tail for head, relation, tail in facts if (head, relation) == query)
        assert tails[offsets[row] : offsets[row + 1]].tolist() == expected
    assert offsets[-1] == len(tails)


def test_contains_broadcasts_queries_against_candidates() -> None:
    """The batch mask is made in one call: queries down, candidates across."""
    index, _ = _index([(0, 0, 1), (0, 0, 2), (3, 1, 4)])
    heads, relations = np.array([[0], [4]], dtype=np.int32), np.array([[0], [1 + RELATIONS]], dtype=np.int32)
    found = index.contains(heads, relations, np.array([1, 2, 3], dtype=np.int32))
    assert found.tolist() == [[True, True, False], [False, False, True]]


def test_large_ids_in_int32_do_not_wrap() -> None:
    """Keys computed in the arrays' own int32 would wrap beyond about 2^31 and forget known triples."""
    triples = np.array([[2_999_999, 799, 2_999_998]], dtype=np.int32)
    index = TruthIndex.from_triples(triples, 3_000_000, 800)
    column = [triples[:, index] for index in range(3)]
    assert index.contains(*column).tolist() == [True]
    assert index.contains(column[2], column[1] + 800, column[0]).tolist() == [True]


def test_keys_beyond_int64_are_refused() -> None:
    """Beyond 63 bits two triples could share a key."""
    with pytest.raises(DataError, match="entities"):
        TruthIndex.from_triples(np.zeros((1, 3), dtype=np.int32), 2_000_000_000, 2)


def test_shapes_that_do_not_fit_are_refused() -> None:
    """A caller's mistake should name both shapes instead of ending in a numpy traceback."""
    index, _ = _index([(0, 0, 1)])
    with pytest.raises(ShapeError, match=r"\(2,\) and \(3,\)"):
        index.contains(np.arange(2), np.arange(3), np.arange(3))
    with pytest.raises(ShapeError, match="shape"):
        index.known_tails(np.zeros((2, 2), dtype=np.int64), np.zeros((2, 2), dtype=np.int64))
