"""Relation categories by hand, and breakdowns that add up to the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raydistill.errors import DataError, ShapeError
from raydistill.evaluation.metrics import metrics_of
from raydistill.evaluation.ranks import Ranks
from raydistill.evaluation.relations import breakdown, relation_categories


def test_categories_hand_example() -> None:
    """1-N and N-1 are easily swapped: relation 1 has one head with many tails."""
    one_to_one = [(0, 0, 1), (2, 0, 3), (0, 0, 1)]
    one_to_many = [(0, 1, 1), (0, 1, 2), (0, 1, 3), (4, 1, 5)]
    many_to_one = [(head, 2, tail) for head, _, tail in ((t, r, h) for h, r, t in one_to_many)]
    many_to_many = [(head, 3, tail) for head in (0, 1) for tail in (2, 3)]
    train = np.array(one_to_one + one_to_many + many_to_one + many_to_many, dtype=np.int32)
    assert relation_categories(train, 6, 5) == ("1-1", "1-N", "N-1", "N-N", "unseen")


def test_mean_at_the_threshold_counts_as_many() -> None:
    """Bordes et al. say "below 1.5" is one; three tails over two heads make exactly 1.5."""
    train = np.array([(0, 0, 1), (0, 0, 2), (3, 0, 4)], dtype=np.int32)
    assert relation_categories(train, 5, 1) == ("1-N",)
    assert relation_categories(train, 5, 1, threshold=1.6) == ("1-1",)


def test_repeated_triples_do_not_change_a_category() -> None:
    """A duplicated line would turn a 1-1 relation into N-N."""
    train = np.array([(0, 0, 1)] * 4, dtype=np.int32)
    assert relation_categories(train, 2, 1) == ("1-1",)


def test_categories_refuse_ids_out_of_range() -> None:
    """An inverse relation among the training triples would be counted as one more relation."""
    with pytest.raises(DataError, match="relation ids"):
        relation_categories(np.array([(0, 1, 1)], dtype=np.int32), 2, 1)


def test_breakdown_equals_metrics_of_each_group() -> None:
    """Rows of one relation attributed to another would still average to the right total."""
    generator = torch.Generator().manual_seed(0)
    better = torch.randint(0, 20, (60,), generator=generator)
    ranks = Ranks(better, torch.randint(0, 2, (60,), generator=generator), torch.full_like(better, 30))
    group = torch.randint(0, 4, (60,), generator=generator).numpy()
    group[group == 2] = 3
    inverse = np.arange(60) >= 30
    table = breakdown(ranks, ("a", "b", "c", "d"), group, inverse)
    assert set(table) == {"a", "b", "d"}
    for number, name in ((0, "a"), (1, "b"), (3, "d")):
        for direction, mask in (("head", inverse), ("tail", ~inverse), ("both", inverse | True)):
            expected = metrics_of(ranks.select(torch.from_numpy((group == number) & mask)))
            assert {key: table[name][f"{direction}/{key}"] for key in expected} == expected


def test_breakdown_leaves_out_directions_without_a_query() -> None:
    """A metric over no query would be NaN."""
    ranks = Ranks(*(torch.tensor([0, 1]) for _ in range(3)))
    table = breakdown(ranks, ("a",), np.zeros(2, dtype=np.int64), np.array([False, False]), suffix="+neighbors")
    assert {key.split("/")[0] for key in table["a"]} == {"tail", "both"}
    assert all(key.endswith("+neighbors") for key in table["a"])


def test_breakdown_refuses_unlike_lengths_and_unnamed_groups() -> None:
    """Groups of another split would be read as this one's."""
    ranks = Ranks(*(torch.tensor([0, 1]) for _ in range(3)))
    with pytest.raises(ShapeError, match="one of each"):
        breakdown(ranks, ("a",), np.zeros(3, dtype=np.int64), np.zeros(2, dtype=np.bool_))
    with pytest.raises(ShapeError, match="group number 1"):
        breakdown(ranks, ("a",), np.ones(2, dtype=np.int64), np.zeros(2, dtype=np.bool_))
