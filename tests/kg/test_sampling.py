from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydistill.errors import ConfigError, DataError
from raydistill.kg.graph import Graph
from raydistill.kg.holdout import hold_out
from raydistill.kg.lines import Intake
from raydistill.kg.sampling import cut_graph
from raydistill.kg.sources import read_source
from raydistill.kg.triples import IntArray


def _parts(triples: IntArray, entities: list[int]) -> int:
    """Count connected parts the slow way."""
    beside: dict[int, set[int]] = {entity: set() for entity in entities}
    for head, _, tail in triples.tolist():
        beside[head].add(tail)
        beside[tail].add(head)
    seen: set[int] = set()
    parts = 0
    for entity in entities:
        parts += entity not in seen
        stack = [entity]
        while stack:
            current = stack.pop()
            if current not in seen:
                seen.add(current)
                stack.extend(beside[current])
    return parts


def _random_graph(num_entities: int, num_triples: int, seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, num_entities, (num_triples, 3)).astype(np.int32)
    rows[:, 1] %= 4
    names = [f"entity {row}" for row in range(num_entities)]
    return Graph(
        "tsv",
        entity_keys=[f"e{row}" for row in range(num_entities)],
        entity_names=names,
        entity_descriptions=[""] * num_entities,
        relation_keys=[f"r{row}" for row in range(4)],
        relation_phrases=[f"relation {row}" for row in range(4)],
        triples={"train": rows[20:], "valid": rows[:10], "test": rows[10:20]},
        unnamed=np.zeros(num_entities, dtype=np.bool_),
        unphrased=np.zeros(4, dtype=np.bool_),
    )


def _facts(graph: Graph) -> set[tuple[str, str, str]]:
    keys, relations = graph.entity_keys, graph.relation_keys
    return {(keys[head], relations[relation], keys[tail]) for head, relation, tail in graph.all_triples().tolist()}


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_is_connected_and_induced(seed: int) -> None:
    """A cut in pieces, or one that lost triples between its entities, is another task than the whole graph."""
    whole = _random_graph(300, 900, seed)
    cut, record = cut_graph(whole, 80, seed)
    assert cut.num_entities == 80
    assert _parts(cut.triples["train"], list(range(80))) == 1
    kept = set(cut.entity_keys)
    assert _facts(cut) == {fact for fact in _facts(whole) if fact[0] in kept and fact[2] in kept}
    names = dict(zip(whole.entity_keys, whole.entity_names, strict=True))
    assert [names[key] for key in cut.entity_keys] == cut.entity_names
    assert record["kept"]["train"] == len(cut.triples["train"])
    assert min(len(cut.triples[split]) for split in ("valid", "test")) > 10


def test_the_same_seed_gives_the_same_cut_and_another_seed_another() -> None:
    """Trials on a cut can only be compared if it is the same cut."""
    whole = _random_graph(300, 900, 0)
    first, second, other = cut_graph(whole, 60, 3)[0], cut_graph(whole, 60, 3)[0], cut_graph(whole, 60, 4)[0]
    assert first.entity_keys == second.entity_keys
    assert all(np.array_equal(first.triples[split], second.triples[split]) for split in first.triples)
    assert first.entity_keys != other.entity_keys


def test_a_cut_stays_within_the_largest_part() -> None:
    """Started in a small island, a cut would end there with a handful of triples."""
    rows = [(4 + row, 0, 4 + (row + step) % 20) for row in range(20) for step in (1, 2)]
    island = [(0, 0, 1), (2, 0, 3)]
    graph = _random_graph(24, 30, 0)
    graph.triples["train"] = np.array(rows + island, dtype=np.int32)
    graph.triples["valid"] = graph.triples["test"] = np.array([(4, 0, 7)], dtype=np.int32)
    for seed in range(5):
        cut, _ = cut_graph(graph, 24, seed)
        assert cut.entity_keys == [f"e{row}" for row in range(4, 24)]


def test_a_cut_that_cannot_be_split_is_refused() -> None:
    """A chain has no triple to spare: without it train falls apart."""
    graph = _random_graph(30, 60, 0)
    graph.triples["train"] = np.array([(row, 0, row + 1) for row in range(29)], dtype=np.int32)
    graph.triples["valid"] = graph.triples["test"] = graph.triples["train"][:1]
    with pytest.raises(DataError, match="larger sample"):
        cut_graph(graph, 5, 6)
    with pytest.raises(ConfigError, match="at least 2"):
        cut_graph(graph, 1, 0)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2), st.integers(0, 7)), min_size=1, max_size=60),
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(0, 9),
)
def test_holding_out_tears_nothing_and_leaks_nothing(
    rows: list[tuple[int, int, int]], first: int, second: int, seed: int
) -> None:
    """A held-out triple whose swap or twin stays in train can be read off instead of learnt."""
    train = np.array(rows, dtype=np.int32)
    stays, one, other = hold_out(train, 8, (first, second), np.random.default_rng(seed))
    together = np.concatenate((stays, one, other))
    assert sorted(map(tuple, together.tolist())) == sorted(rows)
    entities = list(range(8))
    assert _parts(stays, entities) == _parts(train, entities)
    assert set(stays[:, 1].tolist()) == set(train[:, 1].tolist())
    pairs = [{frozenset((head, tail)) for head, _, tail in part.tolist()} for part in (stays, one, other)]
    assert not pairs[0] & pairs[1]
    assert not pairs[0] & pairs[2]
    assert not pairs[1] & pairs[2]
    assert bool(len(one)) <= bool(first)
    assert bool(len(other)) <= bool(second)


def test_a_cut_of_wordnet_is_dense_enough_to_learn_from(real_folder: Callable[[str], Path]) -> None:
    """WordNet is nearly a tree: a careless walk keeps about as many triples as entities, and nothing can be held out."""
    whole = read_source(real_folder("WN18RR"), "auto", Intake())
    cut, record = cut_graph(whole, 1500, 0)
    assert cut.num_entities == 1500
    assert sum(len(triples) for triples in cut.triples.values()) > 4000
    assert min(len(cut.triples["valid"]), len(cut.triples["test"])) >= 200
    assert _parts(cut.triples["train"], list(range(1500))) == 1
    assert record["whole"]["entities"] == 40943
    assert all(cut.entity_descriptions)
