"""What is taken out of train, and by which pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raydistill.errors import DataError
from raydistill.kg.graph import Graph
from raydistill.kg.holdout import cut_splits, hold_out
from raydistill.kg.lines import Intake
from raydistill.kg.sources import read_source
from raydistill.kg.triples import IntArray, Split


def test_all_that_training_tells_of_an_entity_stays() -> None:
    """An entity that is only its own neighbour joins nothing, and without its triple nobody would have seen it."""
    train = np.array([(0, 0, 1), (1, 0, 2), (2, 0, 0), (3, 0, 3), (0, 0, 0)], dtype=np.int32)
    for seed in range(20):
        stays, one, other = hold_out(train, 4, (2, 2), np.random.default_rng(seed))
        assert (3, 0, 3) in map(tuple, stays.tolist())
        assert len(one) + len(other) == 2


def _digest(train: IntArray, num_entities: int, wanted: tuple[int, int], seed: int) -> str:
    parts = hold_out(train, num_entities, wanted, np.random.default_rng(seed))
    return hashlib.sha256(b"".join(part.astype("<i4").tobytes() for part in parts)).hexdigest()[:16]


def test_a_seed_takes_what_it_always_took(real_folder: Callable[[str], Path]) -> None:
    """A dataset that another version cuts otherwise cannot be compared with its own results."""
    rows = [(row, (row + step) % 3, (row + step) % 20) for row in range(20) for step in (1, 2, 3, 5, 7)]
    ring = np.array(rows, dtype=np.int32)
    assert [_digest(ring, 20, (10, 10), seed) for seed in (0, 1, 2)] == [
        "e4d34b9a939f65bf",
        "5b18b748f29d8a81",
        "63a3c642aa3b661b",
    ]
    umls = read_source(real_folder("UMLS"), "auto", Intake())
    found = [_digest(umls.triples["train"], umls.num_entities, (521, 260), seed) for seed in (0, 1)]
    assert found == ["e24fa7e19af10508", "a548f566df1099da"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 14), st.integers(0, 2), st.integers(0, 14)), min_size=1, max_size=60),
    st.tuples(st.integers(0, 20), st.integers(0, 20)),
    st.integers(0, 99),
)
def test_whole_arrays_take_what_one_pair_after_the_other_takes(
    rows: list[tuple[int, int, int]], wanted: tuple[int, int], seed: int
) -> None:
    """The plain way, which takes ten times as long: join parts pair by pair, then hand out what joined none."""
    train = np.array(rows, dtype=np.int32)
    pairs = sorted({(min(head, tail), max(head, tail)) for head, _, tail in rows})
    order = np.random.default_rng(seed).permutation(len(pairs)).tolist()
    part = list(range(15))
    tree = {
        pair for pair in pairs if pair[0] == pair[1] and all(pair[0] not in other for other in pairs if other != pair)
    }
    for pair in (pairs[index] for index in order):
        one, other = part[pair[0]], part[pair[1]]
        if one != other:
            tree.add(pair)
            part = [one if label == other else label for label in part]
    left = [sum(relation == row[1] for row in rows) for relation in range(3)]
    taken: list[list[int]] = [[], []]
    for pair in (pairs[index] for index in order):
        goal = [side for side in (0, 1) if len(taken[side]) < wanted[side]]
        of_pair = [row for row, (head, _, tail) in enumerate(rows) if pair == (min(head, tail), max(head, tail))]
        uses = [sum(rows[row][1] == relation for row in of_pair) for relation in range(3)]
        if not goal or pair in tree or any(used and left[index] <= used for index, used in enumerate(uses)):
            continue
        left = [count - used for count, used in zip(left, uses, strict=True)]
        taken[min(goal, key=lambda side: len(taken[side]) / wanted[side])] += of_pair
    _, valid, test = hold_out(train, 15, wanted, np.random.default_rng(seed))
    assert [valid.tolist(), test.tolist()] == [[list(rows[row]) for row in sorted(side)] for side in taken]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2), st.integers(0, 7)), min_size=1, max_size=60),
    st.floats(0.01, 0.49),
    st.integers(0, 9),
)
def test_a_cut_leaves_no_entity_or_relation_unseen(rows: list[tuple[int, int, int]], share: float, seed: int) -> None:
    """What training never saw cannot be asked for."""
    train = np.array(rows, dtype=np.int32)
    words = [str(index) for index in range(8)]
    none = np.zeros(8, dtype=np.bool_)
    triples: dict[Split, IntArray] = {"train": train, "valid": train[:0], "test": train[:0]}
    graph = Graph("tsv", words, words, words, words[:3], words[:3], triples, none, none[:3])
    try:
        cut, record = cut_splits(graph, share, seed)
    except DataError:
        _, valid, test = hold_out(train, 8, (1, 1), np.random.default_rng(seed))
        assert not len(valid) or not len(test), "there was something to give"
        return
    assert set(cut.triples["train"][:, [0, 2]].ravel()) == set(train[:, [0, 2]].ravel())
    assert set(cut.triples["train"][:, 1]) == set(train[:, 1])
    assert sorted(map(tuple, cut.all_triples().tolist())) == sorted(rows)
    assert record["cut"] == {split: len(cut.triples[split]) for split in ("valid", "test")}
