"""Which texts see themselves in one group."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydistill.models.attention import SHORTEST_SHARE, runs_of_like_length


@pytest.mark.parametrize(
    ("lengths", "alike", "groups"),
    [
        ([10, 10, 9, 9, 8, 7], math.inf, [(0, 5), (5, 6)]),
        ([10, 10, 9, 9, 8, 7], 18, [(0, 2), (2, 4), (4, 6)]),
        ([10, 9, 9, 9, 8, 8, 7], 20, [(0, 1), (1, 4), (4, 7)]),
        ([10, 9, 8, 8, 8], 24, [(0, 2), (2, 5)]),
        ([5], 5, [(0, 1)]),
        ([], 1, []),
    ],
)
def test_texts_of_one_length_are_a_group_where_they_are_many(
    lengths: list[int], alike: float, groups: list[tuple[int, int]]
) -> None:
    """Many texts that are padded for the sake of one; or a group for every one of a few."""
    assert list(runs_of_like_length(lengths, alike)) == groups


@given(st.lists(st.integers(1, 60)), st.one_of(st.integers(1, 200), st.just(math.inf)))
def test_every_text_is_in_one_group_and_none_is_padded_much(lengths: list[int], alike: float) -> None:
    """A text that is left out, or that is seen twice."""
    lengths = sorted(lengths, reverse=True)
    groups = list(runs_of_like_length(lengths, alike))
    assert all(end == start for (_, end), (start, _) in pairwise(groups))
    assert [groups[0][0], groups[-1][1]] == [0, len(lengths)] if lengths else groups == []
    for first, end in groups:
        assert lengths[end - 1] >= SHORTEST_SHARE * lengths[first]
        assert lengths.count(lengths[first]) * lengths[first] < alike or lengths[end - 1] == lengths[first]
