"""Neighbourhoods against a plain breadth-first search."""

from __future__ import annotations

import itertools
from collections import deque

import numpy as np
import pytest

from raydistill.errors import ConfigError, DataError
from raydistill.evaluation import reranking
from raydistill.evaluation.reranking import NeighborReranking


def reached(graph: NeighborReranking, heads: list[int]) -> list[list[int]]:
    offsets, ids = graph.within_reach(np.array(heads, dtype=np.int64))
    return [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]


def breadth_first(triples: list[tuple[int, int, int]], head: int, hops: int) -> list[int]:
    """The twin, in the manner of SimKGC: sets and a queue."""
    distance, queue = {head: 0}, deque([head])
    while queue:
        entity = queue.popleft()
        if distance[entity] < hops:
            for a, _, b in triples:
                for here, there in ((a, b), (b, a)):
                    if here == entity and there not in distance:
                        distance[there] = distance[entity] + 1
                        queue.append(there)
    return sorted(distance)


def random_triples(seed: int) -> list[tuple[int, int, int]]:
    generator = np.random.default_rng(seed)
    return [(int(h), int(r), int(t)) for h, r, t in generator.integers((30, 3, 30), size=(25, 3))]


def test_path_by_hand() -> None:
    """One hop too many or too few, or the head left out, on a path 0-1-2-3 with 4 apart."""
    graph = NeighborReranking.from_triples(np.array([(0, 0, 1), (2, 0, 1), (2, 0, 3)], dtype=np.int32), 5, hops=2)
    assert reached(graph, [0, 1, 4]) == [[0, 1, 2], [0, 1, 2, 3], [4]]


@pytest.mark.parametrize("hops", [1, 2, 3, 5])
@pytest.mark.parametrize("budget", [1, 2**26])
def test_within_reach_equals_breadth_first_search(hops: int, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many heads searched at once must not see each other's reach, whether in one block or in many."""
    monkeypatch.setattr(reranking, "_BUDGET_BYTES", budget)
    for seed in range(3):
        triples = random_triples(seed)
        graph = NeighborReranking.from_triples(np.array(triples, dtype=np.int32), 32, hops=hops)
        heads = [3, 31, 0, 3, 17, 5]
        assert reached(graph, heads) == [breadth_first(triples, head, hops) for head in heads]


def test_too_large_a_reach_gives_no_bonus() -> None:
    """Past SimKGC's limit a hub would raise nearly everything."""
    star = np.array([(0, 0, tail) for tail in range(1, 9)], dtype=np.int32)
    graph = NeighborReranking.from_triples(star, 10, hops=1, max_entities=5)
    assert reached(graph, [0, 4]) == [[], [0, 4]]


def test_no_head_and_no_triple() -> None:
    """An empty worker or an empty graph must not fail."""
    graph = NeighborReranking.from_triples(np.zeros((0, 3), dtype=np.int32), 4)
    assert reached(graph, []) == []
    assert reached(graph, [2]) == [[2]]


@pytest.mark.parametrize(("hops", "bonus"), [(0, 0.05), (2, 0.0), (2, float("nan"))])
def test_settings_without_effect_are_refused(hops: int, bonus: float) -> None:
    """Numbers would be named re-ranked without being so."""
    with pytest.raises(ConfigError, match=f"hops={hops}"):
        NeighborReranking.from_triples(np.zeros((0, 3), dtype=np.int32), 4, hops=hops, bonus=bonus)


def test_unknown_entities_are_refused() -> None:
    """Another graph's ids would take another entity's neighbours."""
    with pytest.raises(DataError, match="tail ids"):
        NeighborReranking.from_triples(np.array([(0, 0, 9)], dtype=np.int32), 5)
    with pytest.raises(DataError, match="below 4"):
        reached(NeighborReranking.from_triples(np.zeros((0, 3), dtype=np.int32), 4), [4])
