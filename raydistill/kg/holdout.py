"""Taking triples out of training without tearing the training graph apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Triples = npt.NDArray[np.int32]


def hold_out(
    train: Triples, num_entities: int, wanted: tuple[int, int], rng: np.random.Generator
) -> tuple[Triples, Triples, Triples]:
    """Take triples out of train for two other splits.

    What is taken are all triples between two entities at once, so that no held-out triple can be read off train
    backwards or under another relation. Entities stay connected as they were, and every relation keeps a training
    triple. Where train has too little to give, both splits get about half of what they want.

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
    rows_of = np.split(np.argsort(pair_of, kind="stable"), np.cumsum(np.bincount(pair_of))[:-1])
    left = np.bincount(train[:, 1]).tolist()
    goal = [0, 1]
    taken: list[list[int]] = [[], []]
    for pair in order[~in_tree[order]].tolist():
        goal = [side for side in goal if len(taken[side]) < wanted[side]]
        if not goal:
            break
        relations, counts = np.unique(train[rows_of[pair], 1], return_counts=True)
        uses = list(zip(relations.tolist(), counts.tolist(), strict=True))
        if any(left[relation] <= count for relation, count in uses):
            continue
        for relation, count in uses:
            left[relation] -= count
        side = min(goal, key=lambda split: len(taken[split]) / wanted[split])
        taken[side].extend(rows_of[pair].tolist())
    rows = [np.sort(np.array(side, dtype=np.int64)) for side in taken]
    stays = np.ones(len(train), dtype=np.bool_)
    stays[np.concatenate(rows)] = False
    return train[stays], train[rows[0]], train[rows[1]]


def _spanning_tree(
    low: npt.NDArray[np.int64], high: npt.NDArray[np.int64], num_entities: int, order: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Mark the pairs that, taken in the given order, join parts not joined before (Kruskal 1956)."""
    parent = list(range(num_entities))

    def root(entity: int) -> int:
        while parent[entity] != entity:
            parent[entity] = parent[parent[entity]]
            entity = parent[entity]
        return entity

    in_tree = np.zeros(len(low), dtype=np.bool_)
    for pair, first, second in zip(order.tolist(), low[order].tolist(), high[order].tolist(), strict=True):
        one, other = root(first), root(second)
        if one != other:
            parent[one] = other
            in_tree[pair] = True
    return in_tree
