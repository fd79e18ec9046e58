"""A connected cut of a graph, small enough to try things on, dense enough to be worth learning.

1. Start at an entity drawn by the seed, weighted by degree, in the largest connected part of the training graph.
2. Add, again and again, the entity with the most training triples into the cut (ties: lowest id). A random walk through
   a graph as sparse as WordNet would return a tree, from which no triple can be held out.
3. Keep the triples of every split that lie within the cut.
4. If valid or test came out small, move triples over from train: whole entity pairs outside a spanning tree drawn by
   the seed, so that the cut stays connected in train and no moved triple is left behind the other way round.
"""

from __future__ import annotations

import heapq
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from raydistill.errors import ConfigError, DataError
from raydistill.kg.graph import Graph
from raydistill.kg.holdout import hold_out
from raydistill.kg.text import NeighborIndex
from raydistill.kg.triples import SPLITS, IntArray, Split

MIN_HELD_OUT, HELD_OUT_RATIO = 100, 0.05


def cut_graph(graph: Graph, size: int, seed: int) -> tuple[Graph, dict[str, Any]]:
    """Cut a graph down to about `size` entities that are connected by training triples.

    Args:
        graph: the whole graph.
        size: number of entities to keep; fewer if the largest connected part is smaller.
        seed: decides the start and the triples that are moved; the same seed gives the same cut.

    Returns:
        The cut, with entities and relations numbered anew in their old order, and a record for the audit.

    Raises:
        ConfigError: size is below 2.
        DataError: valid or test would be empty.
    """
    if size < 2:
        raise ConfigError(f"a sample of {size} entities", expected="at least 2", remedy="ask for a few hundred or more")
    rng = np.random.default_rng(seed)
    kept = np.sort(grow(graph.triples["train"], graph.num_entities, size, rng))
    is_kept = np.zeros(graph.num_entities, dtype=np.bool_)
    is_kept[kept] = True
    parts = {split: _within(graph.triples[split], is_kept) for split in SPLITS}
    parts, moved = _fill_up(parts, graph.num_entities, rng)
    for split in SPLITS:
        if not len(parts[split]):
            raise DataError(
                f"a cut of {len(kept)} entities leaves no triple for {split}",
                expected="at least one triple in each split",
                consequence="nothing could be learnt, selected or reported",
                remedy="ask for a larger sample",
            )
    cut = _renumber(graph, parts, kept)
    whole = {"entities": graph.num_entities, "relations": graph.num_relations}
    record = {
        "requested": size,
        "seed": seed,
        "whole": whole | {split: len(graph.triples[split]) for split in SPLITS},
        "kept": {"entities": cut.num_entities, "relations": cut.num_relations}
        | {split: len(cut.triples[split]) for split in SPLITS},
        "moved": moved,
    }
    return cut, record


def grow(train: IntArray, num_entities: int, size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the entities of a dense connected cut, in the order they joined it."""
    neighbors = NeighborIndex.from_triples(train, num_entities)
    part = largest_part(neighbors, num_entities)
    weights = _pair_weights(train, num_entities, neighbors)
    degrees = np.diff(neighbors.offsets)[part].astype(np.float64)
    start = int(rng.choice(part, p=degrees / degrees.sum())) if degrees.sum() else int(part[0])
    gains = np.zeros(num_entities, dtype=np.int64)
    joined = np.zeros(num_entities, dtype=np.bool_)
    frontier: list[tuple[int, int]] = [(0, start)]
    order: list[int] = []
    while frontier and len(order) < size:
        _, entity = heapq.heappop(frontier)
        if joined[entity]:  # Gains only rise, so the entry with the present gain came out before the older ones.
            continue
        joined[entity] = True
        order.append(entity)
        span = slice(int(neighbors.offsets[entity]), int(neighbors.offsets[entity + 1]))
        around = neighbors.neighbors[span]
        gains[around] += weights[span]
        for other in around[~joined[around]].tolist():
            heapq.heappush(frontier, (-int(gains[other]), other))
    return np.array(order, dtype=np.int64)


def largest_part(neighbors: NeighborIndex, num_entities: int) -> npt.NDArray[np.int64]:
    """Return the entities of the largest connected part (ties: the one with the lowest id)."""
    labels = np.arange(num_entities, dtype=np.int64)
    owners = np.repeat(labels, np.diff(neighbors.offsets))
    while True:
        lowest = labels.copy()
        np.minimum.at(lowest, owners, labels[neighbors.neighbors])
        lowest = lowest[lowest]
        if np.array_equal(lowest, labels):
            return np.flatnonzero(labels == np.bincount(labels).argmax())
        labels = lowest


def _pair_weights(train: IntArray, num_entities: int, neighbors: NeighborIndex) -> npt.NDArray[np.int64]:
    """Return for each entry of the neighbour index how many training triples join the two entities."""
    low, high = np.minimum(train[:, 0], train[:, 2]), np.maximum(train[:, 0], train[:, 2])
    keys, counts = np.unique(low.astype(np.int64) * num_entities + high, return_counts=True)
    owners = np.repeat(np.arange(num_entities, dtype=np.int64), np.diff(neighbors.offsets))
    others = neighbors.neighbors.astype(np.int64)
    wanted = np.minimum(owners, others) * num_entities + np.maximum(owners, others)
    weights: npt.NDArray[np.int64] = counts[np.searchsorted(keys, wanted)].astype(np.int64)
    return weights


def _within(triples: npt.NDArray[np.int32], is_kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    return triples[is_kept[triples[:, 0]] & is_kept[triples[:, 2]]]


def _fill_up(
    parts: dict[Split, npt.NDArray[np.int32]], num_entities: int, rng: np.random.Generator
) -> tuple[dict[Split, npt.NDArray[np.int32]], dict[str, int]]:
    total = sum(len(part) for part in parts.values())
    target = max(MIN_HELD_OUT, round(HELD_OUT_RATIO * total))
    lacking = [max(0, target - len(parts["valid"])), max(0, target - len(parts["test"]))]
    train, to_valid, to_test = hold_out(parts["train"], num_entities, (lacking[0], lacking[1]), rng)
    filled: dict[Split, npt.NDArray[np.int32]] = {
        "train": train,
        "valid": np.concatenate((parts["valid"], to_valid)),
        "test": np.concatenate((parts["test"], to_test)),
    }
    return filled, {"valid": len(to_valid), "test": len(to_test)}


def _renumber(graph: Graph, parts: dict[Split, npt.NDArray[np.int32]], kept: npt.NDArray[np.int64]) -> Graph:
    used = np.unique(np.concatenate([part[:, 1] for part in parts.values()]))
    entity_ids = np.full(graph.num_entities, -1, dtype=np.int32)
    entity_ids[kept] = np.arange(len(kept), dtype=np.int32)
    relation_ids = np.full(graph.num_relations, -1, dtype=np.int32)
    relation_ids[used] = np.arange(len(used), dtype=np.int32)
    triples = {
        split: np.column_stack((entity_ids[part[:, 0]], relation_ids[part[:, 1]], entity_ids[part[:, 2]]))
        for split, part in parts.items()
    }
    entities, relations = kept.tolist(), used.tolist()
    return replace(
        graph,
        entity_keys=[graph.entity_keys[row] for row in entities],
        entity_names=[graph.entity_names[row] for row in entities],
        entity_descriptions=[graph.entity_descriptions[row] for row in entities],
        relation_keys=[graph.relation_keys[row] for row in relations],
        relation_phrases=[graph.relation_phrases[row] for row in relations],
        triples=triples,
        unnamed=graph.unnamed[kept],
        unphrased=graph.unphrased[used],
    )
