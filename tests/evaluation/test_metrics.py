"""Metrics against hand numbers and against PyKEEN, and the bootstrap interval."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raydistill.errors import DataError, ShapeError
from raydistill.evaluation.metrics import adjusted_mean_rank_index, keyed, metrics_of, mrr_interval
from raydistill.evaluation.ranking import Ranks, ranks_of_scores
from raydistill.evaluation.ranks import TIE_RULES


def ranks(better: list[int], tied: list[int], rivals: list[int]) -> Ranks:
    return Ranks(torch.tensor(better), torch.tensor(tied), torch.tensor(rivals))


def random_ranks(num_queries: int = 300) -> Ranks:
    generator = torch.Generator().manual_seed(1)
    better = torch.randint(0, 50, (num_queries,), generator=generator)
    return Ranks(better, torch.randint(0, 3, (num_queries,), generator=generator), torch.full_like(better, 60))


def test_metrics_hand_numbers() -> None:
    """Realistic ranks 1, 2.5 and 12 of 10, 10 and 20 options, worked on paper."""
    metrics = metrics_of(ranks([0, 1, 11], [0, 1, 0], [9, 9, 19]))
    assert metrics["mr"] == pytest.approx(15.5 / 3)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 2.5 + 1 / 12) / 3)
    assert metrics["mrr.optimistic"] == pytest.approx((1 + 1 / 2 + 1 / 12) / 3)
    assert metrics["mrr.pessimistic"] == pytest.approx((1 + 1 / 3 + 1 / 12) / 3)
    assert metrics["hits@1"] == pytest.approx(1 / 3)
    assert metrics["hits@3"] == metrics["hits@10"] == pytest.approx(2 / 3)
    assert metrics["amri"] == pytest.approx(1 - (15.5 / 3 - 1) / ((5.5 + 5.5 + 10.5) / 3 - 1))
    assert metrics["queries"] == 3


def test_tied_first_place_is_no_hit_at_one() -> None:
    """The realistic rank of a two-way tie for the first place is 1.5."""
    tied = ranks([0], [1], [4])
    assert metrics_of(tied)["hits@1"] == 0.0
    assert metrics_of(tied, tie_rule="optimistic")["hits@1"] == 1.0


def test_other_rules_are_named() -> None:
    """A number of another tie rule must not stand under a bare name twice."""
    metrics = metrics_of(random_ranks(), tie_rule="pessimistic")
    assert {name for name in metrics if name.startswith("mrr")} == {"mrr", "mrr.optimistic", "mrr.realistic"}
    assert metrics["mrr"] < metrics["mrr.realistic"] < metrics["mrr.optimistic"]


def test_amri_ends_and_middle() -> None:
    """1 always first, 0 at the expectation of chance, -1 always last, 0 where nothing can be told."""
    assert adjusted_mean_rank_index(ranks([0, 0], [0, 0], [4, 8])) == 1.0
    assert adjusted_mean_rank_index(ranks([2, 4], [0, 0], [4, 8])) == 0.0
    assert adjusted_mean_rank_index(ranks([4, 8], [0, 0], [4, 8])) == -1.0
    assert adjusted_mean_rank_index(ranks([0], [0], [0])) == 0.0


def test_keys_name_split_direction_and_change() -> None:
    """Promotion looks for `valid/both/mrr`."""
    assert keyed("valid", "both", {"mrr": 0.5}) == {"valid/both/mrr": 0.5}
    assert keyed("test", "head", {"hits@1": 0.5}, suffix="+neighbors") == {"test/head/hits@1+neighbors": 0.5}


def test_no_query_is_refused() -> None:
    """The mean of nothing is NaN, which compares as neither better nor worse."""
    empty = ranks([], [], [])
    with pytest.raises(DataError, match="no query"):
        metrics_of(empty)
    with pytest.raises(DataError, match="no query"):
        mrr_interval(empty)


def test_interval_holds_the_mean_and_narrows_with_queries() -> None:
    """An interval of the wrong quantity or scale would not follow the mean, nor shrink with the square root of n."""
    few, many = random_ranks(200), random_ranks(20_000)
    for group in (few, many):
        low, high = mrr_interval(group)
        assert low < metrics_of(group)["mrr"] < high
    widths = [high - low for low, high in (mrr_interval(few), mrr_interval(many))]
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.3)


def test_interval_is_as_wide_as_the_normal_one() -> None:
    """A percentile interval of a mean of many values is close to mean ± 1.96 standard errors."""
    group = random_ranks(5000)
    reciprocal = 1 / group.realistic
    low, high = mrr_interval(group)
    assert high - low == pytest.approx(2 * 1.96 * (reciprocal.std() / len(group) ** 0.5).item(), rel=0.1)


def test_interval_is_deterministic_and_seeded() -> None:
    """A report made twice must be the same, and the seed must do something."""
    group = random_ranks()
    assert mrr_interval(group) == mrr_interval(group)
    assert mrr_interval(group, seed=1) != mrr_interval(group, seed=2)


def test_interval_widens_with_confidence() -> None:
    """Swapped quantiles would turn the interval inside out."""
    group = random_ranks()
    (low, high), (lower, higher) = mrr_interval(group, confidence=0.5), mrr_interval(group, confidence=0.99)
    assert lower < low < high < higher


def test_interval_of_equal_ranks_is_a_point() -> None:
    """All ranks 2: nothing can vary."""
    assert mrr_interval(ranks([1] * 5, [0] * 5, [9] * 5)) == (0.5, 0.5)


def test_interval_refuses_impossible_confidence() -> None:
    """95 for 0.95 is an easy slip."""
    with pytest.raises(ShapeError, match="confidence=95"):
        mrr_interval(random_ranks(), confidence=95)


@pytest.mark.slow
def test_ranks_and_metrics_equal_pykeen_on_ten_thousand_tables() -> None:
    """Definitions of ranks with ties and filters differ between libraries by one; numbers would not compare."""
    pytest.importorskip("pykeen")
    from pykeen.evaluation.evaluator import filter_scores_
    from pykeen.evaluation.ranks import Ranks as PykeenRanks
    from pykeen.metrics.ranking import (
        AdjustedArithmeticMeanRankIndex,
        ArithmeticMeanRank,
        HitsAtK,
        InverseHarmonicMeanRank,
    )

    oracles = {"mr": ArithmeticMeanRank(), "mrr": InverseHarmonicMeanRank(), "amri": AdjustedArithmeticMeanRankIndex()}
    oracles |= {f"hits@{k}": HitsAtK(k) for k in (1, 3, 10)}
    generator = torch.Generator().manual_seed(0)
    queries_per_table, tables_per_width = 3, 200
    num_queries = queries_per_table * tables_per_width
    for width in range(2, 52):
        levels = int(torch.randint(2, 2 * width, (1,), generator=generator))
        scores = torch.randint(0, levels, (num_queries, width), generator=generator).float()
        gold = torch.randint(0, width, (num_queries,), generator=generator)
        known = torch.rand(num_queries, width, generator=generator) < 0.2
        known[torch.arange(num_queries), gold] |= torch.rand(num_queries, generator=generator) < 0.5
        pairs = known.nonzero()
        ours = ranks_of_scores(scores, gold, torch.cat((torch.tensor([0]), known.sum(1).cumsum(0))), pairs[:, 1])

        true_scores = scores.gather(1, gold[:, None])
        theirs = PykeenRanks.from_scores(
            true_scores, filter_scores_(scores.clone(), pairs).scatter(1, gold[:, None], true_scores)
        )
        assert torch.equal(ours.options, theirs.number_of_options)
        by_rule = {name: value.numpy().astype(np.float64) for name, value in theirs.items()}
        for rule in TIE_RULES:
            assert np.array_equal(ours.under(rule).numpy(), by_rule[rule])
        options = theirs.number_of_options.numpy()
        for start in range(0, num_queries, queries_per_table):
            table = slice(start, start + queries_per_table)
            chosen = ours.select(torch.arange(start, table.stop))
            for rule in TIE_RULES:
                metrics = metrics_of(chosen, tie_rule=rule)
                for name, oracle in oracles.items():
                    if name == "amri" and options[table].max() == 1:
                        continue  # 0 / 0: they divide by a small number, we answer 0
                    expected = oracle(by_rule[rule][table], options[table])
                    assert abs(metrics[name] - expected) <= 1e-12 * max(1.0, abs(expected)), (rule, name)
