"""How far relations say the same, forwards or backwards, and how much of a split can be read off another.

Source:
    Akrami et al. 2020, Realistic Re-evaluation of Knowledge Graph Completion Methods, arXiv 2003.08001: two relations
    are near-inverse (or near-duplicate) when the pairs they share are at least 80 % of either's pairs. A relation that
    is its own near-inverse is symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raydistill.kg.triples import IntArray

NEAR_RATIO = 0.8


@dataclass(frozen=True)
class RelationPair:
    """Two relations and the share of pairs they have in common, as a share of the larger one's pairs."""

    first: int
    second: int
    ratio: float


def triple_keys(triples: IntArray, num_entities: int, num_relations: int) -> npt.NDArray[np.int64]:
    """Return one number per triple, equal exactly where the triples are equal."""
    keys: npt.NDArray[np.int64] = pair_keys(triples[:, 0], triples[:, 2], num_entities) * num_relations + triples[:, 1]
    return keys


def pair_keys(heads: IntArray, tails: IntArray, num_entities: int) -> npt.NDArray[np.int64]:
    """Return one number per ordered pair of entities."""
    keys: npt.NDArray[np.int64] = np.asarray(heads, dtype=np.int64) * num_entities + tails
    return keys


def distinct(triples: IntArray, num_entities: int, num_relations: int) -> IntArray:
    """Return the triples without repeats."""
    _, first = np.unique(triple_keys(triples, num_entities, num_relations), return_index=True)
    return triples[first]


def near_inverse(train: IntArray, num_entities: int, num_relations: int) -> list[RelationPair]:
    """List pairs of relations that say each other backwards; a pair of one relation with itself is symmetric."""
    return _near(train, num_entities, num_relations, swap=True)


def near_duplicate(train: IntArray, num_entities: int, num_relations: int) -> list[RelationPair]:
    """List pairs of different relations that hold between the same entities."""
    pairs = _near(train, num_entities, num_relations, swap=False)
    return [pair for pair in pairs if pair.first != pair.second]


def swapped_in(part: IntArray, train: IntArray, num_entities: int) -> npt.NDArray[np.bool_]:
    """Tell for each triple (h, r, t) of a part whether train holds (t, r', h) for some relation r'."""
    swapped = pair_keys(part[:, 2], part[:, 0], num_entities)
    return np.isin(swapped, pair_keys(train[:, 0], train[:, 2], num_entities))


def _near(train: IntArray, num_entities: int, num_relations: int, *, swap: bool) -> list[RelationPair]:
    triples = distinct(train, num_entities, num_relations)
    if swap:  # A loop (e, r, e) is its own inverse and says nothing about the relation.
        triples = triples[triples[:, 0] != triples[:, 2]]
    shared = _shared_pairs(triples, num_entities, num_relations, swap=swap)
    sizes = np.maximum(np.bincount(triples[:, 1], minlength=num_relations), 1)
    found = []
    for key, count in zip(*np.unique(shared, return_counts=True), strict=True):
        first, second = divmod(int(key), num_relations)
        ratio = float(count) / float(max(sizes[first], sizes[second]))
        if first <= second and ratio >= NEAR_RATIO:
            found.append(RelationPair(first, second, round(ratio, 4)))
    return found


def _shared_pairs(triples: IntArray, num_entities: int, num_relations: int, *, swap: bool) -> npt.NDArray[np.int64]:
    """Join triples with triples over their (swapped) pair; return first relation * R + second relation per match."""
    heads, relations, tails = triples[:, 0], triples[:, 1].astype(np.int64), triples[:, 2]
    keys = pair_keys(heads, tails, num_entities)
    order = np.argsort(keys, kind="stable")
    wanted = pair_keys(tails, heads, num_entities) if swap else keys
    start, stop = (np.searchsorted(keys[order], wanted, side=side) for side in ("left", "right"))
    counts = stop - start
    rows = np.arange(counts.sum()) + np.repeat(start - (np.cumsum(counts) - counts), counts)
    joined: npt.NDArray[np.int64] = np.repeat(relations, counts) * num_relations + relations[order][rows]
    return joined
