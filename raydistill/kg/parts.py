"""The division of a graph's relations into parts of nearly equally many training triples, and a graph of one part alone."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydistill.errors import CapabilityError, ConfigError, DataError
from raydistill.kg.graph import Graph
from raydistill.kg.triples import SPLITS, IntArray


def parts_of_relations(train: IntArray, num_relations: int, num_parts: int) -> NDArray[np.int64]:
    """The part of each relation: each, the largest first, goes to the part that is the smallest so far.

    Args:
        train: training triples `(n, 3)`, without inverses.
        num_relations: R, without inverses.
        num_parts: how many.

    Returns:
        `(R,)`, from 0.

    Raises:
        CapabilityError: more parts than relations that have a triple.
    """
    counts = np.bincount(train[:, 1], minlength=num_relations)
    present = int((counts > 0).sum())
    if num_parts > present:
        raise CapabilityError(
            f"{num_parts} parts of the relations of a graph that has {present} with a training triple",
            expected=f"at most {present} parts",
            consequence="a part would have nothing to teach",
            remedy=f"ask for {present} or fewer (method.stages, or prepare --part), or take a graph of more relations",
        )
    sizes, part = np.zeros(num_parts, np.int64), np.zeros(num_relations, np.int64)
    for relation in np.argsort(-counts, kind="stable"):
        part[relation] = np.argmin(sizes)
        sizes[part[relation]] += counts[relation]
    return part


def parsed_part(text: str) -> tuple[int, int]:
    """Which part, from 1, of how many: (2, 3) of "2/3".

    Raises:
        ConfigError: it is no such thing, or a part beyond the last.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    number, count = (int(one) for one in found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise ConfigError(
            f"part {text!r}",
            expected="NUMBER/COUNT, as in 2/3, with a number from 1 to the count",
            consequence="it would not be clear which relations to keep",
            remedy="for the second of three parts give 2/3",
        )
    return number, count


def graph_of_part(graph: Graph, number: int, count: int) -> tuple[Graph, dict[str, Any]]:
    """The triples of one part of a graph's relations; entities and relations stay, with their numbers and texts.

    Args:
        graph: the whole graph.
        number: which part, from 1.
        count: of how many.

    Returns:
        The graph of the part, and a record for the audit.

    Raises:
        CapabilityError: more parts than relations that have a training triple.
        DataError: the part has no triple for valid or test.
    """
    part_of = parts_of_relations(graph.triples["train"], graph.num_relations, count)
    relations = np.flatnonzero(part_of == number - 1)
    triples = {split: part[np.isin(part[:, 1], relations)] for split, part in graph.triples.items()}
    for split in SPLITS:
        if not len(triples[split]):
            raise DataError(
                f"part {number}/{count} of the relations has no triple for {split}",
                expected="at least one triple in each split",
                consequence="nothing could be learnt, selected or reported",
                remedy="ask for fewer parts, or take a graph of more triples",
            )
    record = {
        "number": number,
        "count": count,
        "relations": [graph.relation_keys[relation] for relation in relations.tolist()],
        "whole": {"relations": graph.num_relations} | {split: len(graph.triples[split]) for split in SPLITS},
        "kept": {"relations": len(relations)} | {split: len(triples[split]) for split in SPLITS},
    }
    return replace(graph, triples=triples), record
