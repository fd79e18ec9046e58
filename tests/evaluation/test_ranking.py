"""Ranks are counts against brute force, and do not move with tiles, shards, order or duplicates."""

from __future__ import annotations

import itertools
import logging

import pytest
import torch
from torch import Tensor

from raydistill.errors import ConfigError, ShapeError
from raydistill.evaluation.ranking import Ranks, rank_candidates, ranks_of_scores
from raydistill.evaluation.tiles import ScoreTiles

Case = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def lists(per_query: list[list[int]]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([0, *map(len, per_query)])
    return lengths.cumsum(0), torch.tensor(list(itertools.chain(*per_query)), dtype=torch.int64)


def brute_force(scores: list[list[float]], gold: list[int], known: list[list[int]]) -> list[tuple[int, int, int]]:
    """The twin: Python loops over lists."""
    counts = []
    for row, right, listed in zip(scores, gold, known, strict=True):
        rivals = [score for column, score in enumerate(row) if column != right and column not in listed]
        counts.append((sum(s > row[right] for s in rivals), sum(s == row[right] for s in rivals), len(rivals)))
    return counts


def counts_of(ranks: Ranks) -> list[tuple[int, int, int]]:
    return list(zip(ranks.better.tolist(), ranks.tied.tolist(), ranks.rivals.tolist(), strict=True))


def random_known(generator: torch.Generator, num_queries: int, width: int) -> list[list[int]]:
    """Lists with repeats, in no order, with and without the gold."""
    lengths = torch.randint(0, 7, (num_queries,), generator=generator).tolist()
    return [torch.randint(0, width, (length,), generator=generator).tolist() for length in lengths]


def integer_case(seed: int, num_queries: int = 23, width: int = 37) -> tuple[Case, list[list[int]]]:
    """Small whole numbers: products are exact in float32, and ties are many."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(-2, 3, (num_queries, 5), generator=generator).float()
    candidates = torch.randint(-2, 3, (width, 5), generator=generator).float()
    gold = torch.randint(0, width, (num_queries,), generator=generator)
    known = random_known(generator, num_queries, width)
    return (queries, candidates, gold, *lists(known)), known


def duplicated_case(width: int = 150, copies_of: int = 40) -> Case:
    """Random float vectors, where many candidates are exact copies of others."""
    generator = torch.Generator().manual_seed(7)
    originals = torch.nn.functional.normalize(torch.randn(copies_of, 48, generator=generator))
    candidates = originals[torch.randint(0, copies_of, (width,), generator=generator)]
    queries = torch.nn.functional.normalize(torch.randn(70, 48, generator=generator))
    gold = torch.randint(0, width, (70,), generator=generator)
    return queries, candidates, gold, *lists([[] for _ in range(70)])


def test_ranks_hand_numbers() -> None:
    """A rank off by one, or the gold counted among its own ties, would pass every relative comparison."""
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0, 2.0, 5.0]])
    ranks = ranks_of_scores(scores, torch.tensor([2]), *lists([[5]]))
    assert counts_of(ranks) == [(1, 2, 4)]
    assert ranks.optimistic.item() == 2
    assert ranks.realistic.item() == 3.0
    assert ranks.pessimistic.item() == 4
    assert ranks.options.item() == 5
    assert ranks.under("realistic").dtype == torch.float64


@pytest.mark.parametrize("seed", range(5))
def test_ranks_of_scores_equal_brute_force(seed: int) -> None:
    """Filtering by counts may subtract a repeated or a gold entry twice."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 6, (40, 25), generator=generator).float()
    gold = torch.randint(0, 25, (40,), generator=generator)
    known = random_known(generator, 40, 25)
    ranks = ranks_of_scores(scores, gold, *lists(known))
    assert counts_of(ranks) == brute_force(scores.tolist(), gold.tolist(), known)


def test_ranks_of_scores_drops_nan_rivals() -> None:
    """A candidate that is none must not count as an option, nor be taken off twice when it is also known to be true."""
    scores = torch.tensor([[1.0, torch.nan, 2.0, torch.nan]])
    ranks = ranks_of_scores(scores, torch.tensor([0]), *lists([[1]]))
    assert counts_of(ranks) == [(1, 0, 1)]


def test_ranks_of_scores_keeps_infinities() -> None:
    """A score of minus infinity still is a rival, only a bad one."""
    scores = torch.tensor([[0.0, -torch.inf, torch.inf]])
    assert counts_of(ranks_of_scores(scores, torch.tensor([0]), *lists([[]]))) == [(1, 0, 2)]


@pytest.mark.parametrize("seed", range(5))
def test_rank_candidates_equals_brute_force(seed: int) -> None:
    """The streamed form may lose, repeat or misplace pairs at the borders of tiles."""
    case, known = integer_case(seed)
    scores = (case[0] @ case[1].T).tolist()
    ranks = rank_candidates(*case, query_tile=4, candidate_tile=9)
    assert counts_of(ranks) == brute_force(scores, case[2].tolist(), known)


@pytest.mark.parametrize("query_tile", [1, 2, 5, 22, 23, 24])
@pytest.mark.parametrize("candidate_tile", [*range(1, 39), 4096])
def test_rank_candidates_does_not_depend_on_tiles(query_tile: int, candidate_tile: int) -> None:
    """Tile sizes are for speed; a number that moves with them cannot be reproduced on another machine."""
    case, _ = integer_case(11)
    tiled = rank_candidates(*case, query_tile=query_tile, candidate_tile=candidate_tile)
    assert counts_of(tiled) == counts_of(rank_candidates(*case))


@pytest.mark.parametrize("query_tile", [1, 3, 8, 17, 70, 256])
@pytest.mark.parametrize("candidate_tile", [1, 2, 3, 5, 7, 15, 17, 31, 33, 64, 65, 100, 149, 150, 4096])
def test_duplicated_candidates_tie_exactly(query_tile: int, candidate_tile: int) -> None:
    """At the ragged edge of a product two copies of a vector get different scores, and a tie becomes a win or a loss."""
    case = duplicated_case()
    candidates, gold = case[1], case[2]
    copies = (candidates[:, None] == candidates[None]).all(dim=2).sum(dim=1) - 1
    ranks = rank_candidates(*case, query_tile=query_tile, candidate_tile=candidate_tile)
    assert torch.equal(ranks.tied, copies[gold])
    assert counts_of(ranks) == counts_of(rank_candidates(*case))


@pytest.mark.parametrize("num_queries", [1, 2, 5, 16, 69])
def test_ranks_do_not_depend_on_the_other_queries(num_queries: int) -> None:
    """A query ranked alone must get the rank it has among others."""
    queries, candidates, gold, _, ids = duplicated_case()
    offsets = torch.zeros(num_queries + 1, dtype=torch.int64)
    some = rank_candidates(queries[:num_queries], candidates, gold[:num_queries], offsets, ids)
    assert counts_of(some) == counts_of(rank_candidates(*duplicated_case()))[:num_queries]


def test_candidates_out_of_alignment_tie_exactly() -> None:
    """A view that starts in the middle of a matrix may be multiplied by another kernel."""
    queries, candidates, gold, offsets, ids = duplicated_case()
    moved = torch.empty(candidates.numel() + 1)[1:].view_as(candidates).copy_(candidates)
    ranks = rank_candidates(queries, moved, gold, offsets, ids, candidate_tile=64)
    assert counts_of(ranks) == counts_of(rank_candidates(*duplicated_case()))


def test_tie_rules_are_ordered() -> None:
    """Swapped rules would report the best case as the worst."""
    ranks = rank_candidates(*integer_case(3)[0])
    assert bool((ranks.optimistic <= ranks.realistic).all())
    assert bool((ranks.realistic <= ranks.pessimistic).all())
    assert bool((ranks.pessimistic <= ranks.options).all())
    assert bool((ranks.optimistic < ranks.pessimistic).any())


def test_permuting_candidates_changes_nothing() -> None:
    """Ranking by an unstable sort gives numbers that depend on the order of the entity file."""
    queries, candidates, gold, offsets, ids = duplicated_case()
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(0))
    place = torch.argsort(order)
    ranks = rank_candidates(queries, candidates[order], place[gold], offsets, place[ids])
    assert counts_of(ranks) == counts_of(rank_candidates(*duplicated_case()))


def test_known_list_with_the_gold_keeps_it() -> None:
    """Filters list all true answers; a gold that filters itself out would always rank first."""
    scores = torch.tensor([[1.0], [3.0], [2.0], [2.0]])
    queries, gold = torch.ones(2, 1), torch.tensor([0, 2])
    ranks = rank_candidates(queries, scores, gold, *lists([[0, 1], [2]]))
    assert counts_of(ranks) == [(2, 0, 2), (1, 1, 3)]


@pytest.mark.parametrize("bounds", [[0, 37], [0, 1, 37], [0, 10, 11, 30, 37]])
@pytest.mark.parametrize("bonus", [0.0, 1.0])
def test_shards_add_up(bounds: list[int], bonus: float) -> None:
    """Counting the gold in every shard, or dropping a known answer of another shard's, breaks ranking on many machines."""
    (queries, candidates, gold, offsets, ids), _ = integer_case(5)
    raised = lists(random_known(torch.Generator().manual_seed(9), len(queries), len(candidates)))
    whole = rank_candidates(
        queries, candidates, gold, offsets, ids, bonus_offsets=raised[0], bonus_ids=raised[1], bonus=bonus
    )
    shards = [
        rank_candidates(
            queries,
            candidates[first:last],
            gold,
            offsets,
            ids,
            bonus_offsets=raised[0],
            bonus_ids=raised[1],
            bonus=bonus,
            first_candidate=first,
            gold_vectors=candidates[gold],
            candidate_tile=6,
        )
        for first, last in itertools.pairwise(bounds)
    ]
    total = shards[0]
    for shard in shards[1:]:
        total = total + shard
    assert counts_of(total) == counts_of(whole)


def test_shards_of_float_vectors_add_up() -> None:
    """Across shards the gold score is computed apart from its copies, and must still tie with them bit for bit."""
    queries, candidates, gold, offsets, ids = duplicated_case()
    parts = [
        rank_candidates(queries, candidates[a:b], gold, offsets, ids, first_candidate=a, gold_vectors=candidates[gold])
        for a, b in ((0, 41), (41, 150))
    ]
    assert counts_of(parts[0] + parts[1]) == counts_of(rank_candidates(*duplicated_case()))


@pytest.mark.parametrize("seed", range(3))
def test_bonus_equals_brute_force(seed: int) -> None:
    """A bonus given twice to a repeated entry, or not to the gold, shifts ranks silently."""
    case, known = integer_case(seed)
    raised = random_known(torch.Generator().manual_seed(seed + 50), len(case[0]), len(case[1]))
    scores = (case[0] @ case[1].T).tolist()
    expected = [
        [s + (column in near) for column, s in enumerate(row)] for row, near in zip(scores, raised, strict=True)
    ]
    offsets, ids = lists(raised)
    ranks = rank_candidates(*case, bonus_offsets=offsets, bonus_ids=ids, bonus=1.0, query_tile=5, candidate_tile=8)
    assert counts_of(ranks) == brute_force(expected, case[2].tolist(), known)
    assert counts_of(ranks) != counts_of(rank_candidates(*case))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_compared_in_float32(dtype: torch.dtype) -> None:
    """In half precision nearly all scores of a large graph would tie."""
    case, _ = integer_case(2)
    converted = rank_candidates(case[0].to(dtype), case[1].to(dtype), *case[2:])
    assert counts_of(converted) == counts_of(rank_candidates(*case))


def test_autocast_does_not_coarsen_scores() -> None:
    """Called inside a bf16 training loop, the products would silently be made in bf16."""
    case = duplicated_case()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ranks = rank_candidates(*case)
    assert counts_of(ranks) == counts_of(rank_candidates(*case))


def test_gold_score_that_depends_on_its_place_is_read_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a device whose kernels break the rule, every rank with a tie would be wrong without notice."""
    expected = counts_of(rank_candidates(*duplicated_case(), query_tile=16))
    original = ScoreTiles.paired

    def shifted(self: ScoreTiles, queries: Tensor, partners: Tensor) -> Tensor:
        scores = original(self, queries, partners)
        scores[20:40] = torch.nextafter(scores[20:40], torch.tensor(2.0))
        return scores

    monkeypatch.setattr(ScoreTiles, "paired", shifted)
    with caplog.at_level(logging.WARNING):
        ranks = rank_candidates(*duplicated_case(), query_tile=16)
    assert counts_of(ranks) == expected
    assert "20 gold scores" in caplog.text


def test_no_query_gives_no_rank() -> None:
    """A worker that happens to get no query must not fail the evaluation of the others."""
    assert len(rank_candidates(torch.empty(0, 3), torch.ones(4, 3), torch.empty(0, dtype=torch.int64), *lists([]))) == 0


def test_ranks_of_unlike_lengths_do_not_add() -> None:
    """One query's counts would broadcast onto all others."""
    one, two = (ranks_of_scores(torch.zeros(n, 2), torch.zeros(n, dtype=torch.int64), *lists([[]] * n)) for n in (1, 2))
    with pytest.raises(ShapeError, match="1 and 2 queries"):
        one + two
    assert counts_of(Ranks.concatenate([one, two])) == [(0, 1, 1)] * 3


def test_unknown_tie_rule_is_refused() -> None:
    """A misspelt rule must not end in a KeyError."""
    ranks = ranks_of_scores(torch.zeros(1, 2), torch.tensor([0]), *lists([[]]))
    with pytest.raises(ConfigError, match="average"):
        ranks.under("average")  # type: ignore[arg-type]


def test_nan_gold_score_is_refused() -> None:
    """Nothing compares with NaN: a broken model would rank every answer first."""
    with pytest.raises(ShapeError, match="gold candidate of query 1"):
        ranks_of_scores(torch.tensor([[1.0, 2.0], [torch.nan, 1.0]]), torch.tensor([0, 0]), *lists([[], []]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_non_finite_vectors_are_refused(bad: float, side: int) -> None:
    """NaN candidates leave the comparison silently and make a broken model look better."""
    case = list(integer_case(0)[0])
    case[side][3, 2] = bad
    with pytest.raises(ShapeError, match="the first is row 3"):
        rank_candidates(*case)


def test_products_that_could_overflow_are_refused() -> None:
    """Infinite scores all tie."""
    case = list(integer_case(0)[0])
    case[0], case[1] = case[0] * 1e20, case[1] * 1e20
    with pytest.raises(ShapeError, match="normalise"):
        rank_candidates(*case)


def test_wrong_shapes_are_refused() -> None:
    """Each of these would broadcast or index to a plausible rank."""
    queries, candidates, gold, offsets, ids = integer_case(0)[0]
    with pytest.raises(ShapeError, match="one per query"):
        rank_candidates(queries, candidates, gold[:1], offsets, ids)
    with pytest.raises(ShapeError, match="same width"):
        rank_candidates(queries[:, :4], candidates, gold, offsets, ids)
    with pytest.raises(ShapeError, match="at least one"):
        rank_candidates(queries, candidates[:0], gold, offsets, ids)
    with pytest.raises(ShapeError, match="known-true candidates: offsets"):
        rank_candidates(queries, candidates, gold, offsets[:-1], ids)
    with pytest.raises(ShapeError, match="ascending offsets"):
        rank_candidates(queries, candidates, gold, offsets, ids[:-1])
    with pytest.raises(ShapeError, match="pass gold_vectors"):
        rank_candidates(queries, candidates[:20], gold, offsets, ids)
    with pytest.raises(ShapeError, match="gold vectors that differ"):
        rank_candidates(queries, candidates, gold, offsets, ids, gold_vectors=candidates[gold] + 1)
    with pytest.raises(ShapeError, match="both bonus_offsets"):
        rank_candidates(queries, candidates, gold, offsets, ids, bonus_ids=ids, bonus=1.0)
    with pytest.raises(ShapeError, match="candidate_tile=0"):
        rank_candidates(queries, candidates, gold, offsets, ids, candidate_tile=0)
    with pytest.raises(ShapeError, match="floats of shape"):
        ranks_of_scores(torch.zeros(3), gold, offsets, ids)
    with pytest.raises(ShapeError, match="ids below 37"):
        ranks_of_scores(queries @ candidates.T, gold, offsets, ids + 37)


@pytest.mark.parametrize("shards", [[0, 37], [0, 5, 20, 37]])
def test_queries_that_share_lists_are_ranked_as_with_their_own(shards: list[int]) -> None:
    """Known answers of another query's list, or a gold that is its own rival because its list speaks of another one."""
    (queries, candidates, gold, *_), _ = integer_case(5)
    generator = torch.Generator().manual_seed(9)
    list_of = torch.randint(0, 4, (len(queries),), generator=generator)
    shared = [
        [*torch.randint(0, 37, (6,), generator=generator).tolist(), *gold[list_of == number].tolist()]
        for number in range(4)
    ]
    own = [shared[number] for number in list_of.tolist()]
    expected = counts_of(rank_candidates(queries, candidates, gold, *lists(own)))
    parts = [
        rank_candidates(
            queries,
            candidates[first:stop],
            gold,
            *lists(shared),
            list_of_query=list_of,
            first_candidate=first,
            gold_vectors=candidates[gold],
            query_tile=4,
            candidate_tile=9,
        )
        for first, stop in itertools.pairwise(shards)
    ]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    assert counts_of(whole) == expected
    shared[1] = []
    with pytest.raises(ShapeError, match="is not in the list that it shares"):
        rank_candidates(queries, candidates, gold, *lists(shared), list_of_query=list_of)
    with pytest.raises(ShapeError, match="the list of each query"):
        rank_candidates(queries, candidates, gold, *lists(shared), list_of_query=list_of[1:])
