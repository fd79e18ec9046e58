"""Taking triples out of training without tearing the training graph apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from raydistill.errors import ConfigError, DataError
from raydistill.kg.graph import Graph
from raydistill.kg.triples import Split

Triples = npt.NDArray[np.int32]
_HELD_OUT: tuple[Split, Split] = ("valid", "test")


def checked_share(share: float) -> float:
    """Return the share of triples that a split is to be cut from, if it is one.

    Raises:
        ConfigError: it is not between 0 and a half.
    """
    if not 0 < share < 0.5:
        raise ConfigError(
            f"a share of {share} to hold out",
            expected="more than 0 and less than 0.5: valid and test may each get that much",
            consequence="nothing would be left to train on, or nothing held out",
            remedy="give a share such as 0.1",
        )
    return share


def cut_splits(graph: Graph, share: float, seed: int) -> tuple[Graph, dict[str, Any]]:
    """Cut valid and test out of train, as far as the source has none.

    Args:
        graph: with train, and without valid, test or both.
        share: of the triples of all splits that each of the cut ones would like; see `hold_out` for what is taken.
        seed: decides what is taken.

    Returns:
        The graph with three splits, its entities and relations numbered as before, and a record for the audit.

    Raises:
        ConfigError: the source has all splits, or `share` is no share.
        DataError: train has nothing to give.
    """
    checked_share(share)
    counts = {split: len(part) for split, part in graph.triples.items()}
    if counts["valid"] and counts["test"]:
        raise ConfigError(
            f"a share of {share} to hold out, and a source with {counts['train']:,} / {counts['valid']:,} / "
            f"{counts['test']:,} triples for train / valid / test",
            expected="a source that lacks valid, test or both",
            consequence="the splits that are given would be replaced, and results could not be compared with others'",
            remedy="leave --hold-out away (in Python, hold_out); to cut anew, put all triples into one file and prepare that file",
        )
    total = sum(counts.values())
    wanted = {split: 0 if counts[split] else max(1, round(share * total)) for split in _HELD_OUT}
    train, valid, test = hold_out(
        graph.triples["train"], graph.num_entities, (wanted["valid"], wanted["test"]), np.random.default_rng(seed)
    )
    taken: dict[Split, Triples] = {"valid": valid, "test": test}
    for split in _HELD_OUT:
        if wanted[split] and not len(taken[split]):
            raise DataError(
                f"no triple of {counts['train']:,} can be held out for {split}",
                expected="entities that are joined in more than one way, and relations of more than one triple",
                consequence="an entity or a relation would not be in training at all",
                remedy="give more triples, or valid and test files of your own",
            )
    triples = {split: taken[split] if wanted[split] else graph.triples[split] for split in _HELD_OUT}
    record = {
        "share": share,
        "seed": seed,
        "whole": total,
        "wanted": wanted,
        "cut": {split: len(part) for split, part in taken.items()},
    }
    return replace(graph, triples={"train": train, **triples}), record


def hold_out(
    train: Triples, num_entities: int, wanted: tuple[int, int], rng: np.random.Generator
) -> tuple[Triples, Triples, Triples]:
    """Take triples out of train for two other splits.

    What is taken are all triples between two entities at once, so that no held-out triple can be read off train
    backwards or under another relation. Entities stay connected as they were, and every relation keeps a training
    triple; so an entity that only stands in triples with itself keeps those. Where train has too little to give, both splits get about half of what they want.

    Args:
        train: `(n, 3)`.
        num_entities: number of entities.
        wanted: how many triples each of the two splits would like.
        rng: draws the spanning tree and the pairs.

    Returns:
        What stays, and what each of the two splits gets (now and then one entity pair more than wanted).
    """
    empty = train[:0]
    if not sum(wanted) or not len(train):
        return train, empty, empty
    low, high = np.minimum(train[:, 0], train[:, 2]), np.maximum(train[:, 0], train[:, 2])
    keys, pair_of = np.unique(low.astype(np.int64) * num_entities + high, return_inverse=True)
    order = rng.permutation(len(keys))
    in_tree = _spanning_tree(keys // num_entities, keys % num_entities, num_entities, order)
    # A triple with itself joins nothing, but may be all that training tells of an entity.
    in_tree |= _is_alone(keys // num_entities, keys % num_entities, num_entities)
    by_pair, ends = np.argsort(pair_of, kind="stable"), np.cumsum(np.bincount(pair_of))
    starts = np.concatenate(([0], ends[:-1]))
    left = np.bincount(train[:, 1]).tolist()
    goal = [0, 1]
    taken: list[list[int]] = [[], []]
    given = order[~in_tree[order]]
    first_rows = by_pair[starts[given]]
    firsts = zip(first_rows.tolist(), train[first_rows, 1].tolist(), strict=True)
    spans = zip(starts[given].tolist(), ends[given].tolist(), strict=True)
    for (row, relation), (start, end) in zip(firsts, spans, strict=True):
        goal = [side for side in goal if len(taken[side]) < wanted[side]]
        if not goal:
            break
        # Nearly every pair has one triple, which needs no counting.
        rows_of_pair = [row] if end - start == 1 else by_pair[start:end].tolist()
        uses = {relation: 1} if end - start == 1 else Counter(train[rows_of_pair, 1].tolist())
        if any(left[used] <= count for used, count in uses.items()):
            continue
        for used, count in uses.items():
            left[used] -= count
        side = min(goal, key=lambda split: len(taken[split]) / wanted[split])
        taken[side].extend(rows_of_pair)
    rows = [np.sort(np.array(side, dtype=np.int64)) for side in taken]
    stays = np.ones(len(train), dtype=np.bool_)
    stays[np.concatenate(rows)] = False
    return train[stays], train[rows[0]], train[rows[1]]


def _is_alone(low: npt.NDArray[np.int64], high: npt.NDArray[np.int64], num_entities: int) -> npt.NDArray[np.bool_]:
    """Mark the pairs of an entity with itself where it stands in no other pair."""
    is_loop = low == high
    has_other = np.zeros(num_entities, dtype=np.bool_)
    has_other[low[~is_loop]] = has_other[high[~is_loop]] = True
    alone: npt.NDArray[np.bool_] = is_loop & ~has_other[low]
    return alone


def _spanning_tree(
    low: npt.NDArray[np.int64], high: npt.NDArray[np.int64], num_entities: int, order: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Mark the pairs that, taken in the given order, join parts not joined before.

    Those are the lightest spanning forest of the graph where a pair weighs as much as its place in the order: there is
    one alone, since no two weigh the same. It grows from all parts at once, which whole arrays can do: each part takes
    the first pair that leads out of it, and parts that are joined so become one, until no pair leads anywhere.

    Source:
        Kruskal 1956 for the pairs; Boruvka 1926 for the way there.
    """
    in_tree = np.zeros(len(low), dtype=np.bool_)
    part = np.arange(num_entities, dtype=np.int64)
    pairs = order
    while True:
        one, other = part[low[pairs]], part[high[pairs]]
        leads_out = one != other
        pairs, one, other = pairs[leads_out], one[leads_out], other[leads_out]
        if not len(pairs):
            return in_tree
        first = np.full(num_entities, len(pairs), dtype=np.int64)
        places = np.arange(len(pairs), dtype=np.int64)
        np.minimum.at(first, one, places)
        np.minimum.at(first, other, places)
        parts = np.flatnonzero(first < len(pairs))
        taken = first[parts]
        in_tree[pairs[taken]] = True
        joined = np.arange(num_entities, dtype=np.int64)
        joined[parts] = one[taken] + other[taken] - parts
        # Two parts that took the same pair point at each other, and no longer ring can be: the lower one is the root.
        is_root = (joined[joined] == np.arange(num_entities)) & (np.arange(num_entities) < joined)
        joined[is_root] = np.flatnonzero(is_root)
        while not np.array_equal(further := joined[joined], joined):
            joined = further
        part = joined[part]
