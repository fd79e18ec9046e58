"""What is odd about a graph: counted and said, never dropped, because each oddity moves the numbers a model reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydistill.kg.findings import describe
from raydistill.kg.graph import Graph
from raydistill.kg.lines import Intake
from raydistill.kg.overlap import RelationPair, distinct, near_duplicate, near_inverse, swapped_in, triple_keys
from raydistill.kg.triples import SPLITS, Split

__all__ = ["audit_graph", "describe"]

_EXAMPLES = 5
_EVALUATED: tuple[Split, Split] = ("valid", "test")


def audit_graph(
    graph: Graph,
    intake: Intake,
    sample: dict[str, Any] | None = None,
    part: dict[str, Any] | None = None,
    hold_out: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Count what a reader of results should know about a graph.

    Args:
        graph: the graph as it will be stored.
        intake: what became of the source's lines.
        sample: how the graph was cut out of a larger one; None if it is whole.
        part: which part of the relations it has the triples of; None if of all.
        hold_out: how valid or test were cut out of train; None if the source has them.

    Returns:
        A JSON object; shares are ratios in 0..1.
    """
    return {
        "layout": graph.layout,
        "counts": {
            "entities": graph.num_entities,
            "relations": graph.num_relations,
            **{split: len(graph.triples[split]) for split in SPLITS},
        },
        "notes": list(graph.notes),
        "hold_out": hold_out,
        "sample": sample,
        "part": part,
        "lines": {name: dict(counts) for name, counts in sorted(intake.tally.items())},
        "quarantined": len(intake.malformed),
        "texts": _texts(graph),
        "duplicate_triples": {split: _num_repeated(graph, split) for split in SPLITS},
        "unseen_in_train": {split: _unseen(graph, split) for split in _EVALUATED},
        "leakage": {split: _leakage(graph, split) for split in _EVALUATED},
        "relations": _relations(graph),
    }


def _texts(graph: Graph) -> dict[str, Any]:
    names, descriptions = graph.entity_names, graph.entity_descriptions
    full = [f"{name}\n{description}" for name, description in zip(names, descriptions, strict=True)]
    without_description = [not description for description in descriptions]
    same_name, same_text = _group_sizes(names), _group_sizes(full)
    return {
        "entities_without_name": int(graph.unnamed.sum()),
        "entities_without_name_examples": _some(graph.entity_keys, graph.unnamed),
        "entities_without_description": sum(without_description),
        "relations_without_phrase": int(graph.unphrased.sum()),
        "entities_sharing_a_name": int(np.count_nonzero(same_name > 1)),
        "entities_sharing_a_name_examples": _some(names, same_name > 1),
        "entities_sharing_a_text": int(np.count_nonzero(same_text > 1)),
        "entities_sharing_a_text_examples": _some(graph.entity_keys, same_text > 1),
        "test_answers_sharing_a_name_ratio": _ratio((same_name > 1)[graph.triples["test"][:, [0, 2]]]),
        "relations_sharing_a_phrase": _same_phrase(graph),
    }


def _unseen(graph: Graph, split: Split) -> dict[str, int]:
    train, part = graph.triples["train"], graph.triples[split]
    seen_entities = np.zeros(graph.num_entities, dtype=np.bool_)
    seen_entities[train[:, 0]] = seen_entities[train[:, 2]] = True
    seen_relations = np.zeros(graph.num_relations, dtype=np.bool_)
    seen_relations[train[:, 1]] = True
    new_entity, new_relation = ~seen_entities[part[:, [0, 2]]], ~seen_relations[part[:, 1]]
    return {
        "entities": len(np.unique(part[:, [0, 2]][new_entity])),
        "relations": len(np.unique(part[:, 1][new_relation])),
        "triples": int(np.count_nonzero(new_entity.any(axis=1) | new_relation)),
    }


def _leakage(graph: Graph, split: Split) -> dict[str, Any]:
    train, part = graph.triples["train"], graph.triples[split]
    keys = triple_keys(part, graph.num_entities, graph.num_relations)
    known = np.isin(keys, triple_keys(train, graph.num_entities, graph.num_relations))
    swapped = swapped_in(part, train, graph.num_entities)
    return {
        "in_train": int(known.sum()),
        "in_train_ratio": _ratio(known),
        "swapped_in_train": int(swapped.sum()),
        "swapped_in_train_ratio": _ratio(swapped),
    }


def _relations(graph: Graph) -> dict[str, Any]:
    train = graph.triples["train"]
    inverse = near_inverse(train, graph.num_entities, graph.num_relations)
    duplicate = near_duplicate(train, graph.num_entities, graph.num_relations)
    return {
        "symmetric": [_named(graph, pair) for pair in inverse if pair.first == pair.second],
        "near_inverse": [_named(graph, pair) for pair in inverse if pair.first != pair.second],
        "near_duplicate": [_named(graph, pair) for pair in duplicate],
    }


def _named(graph: Graph, pair: RelationPair) -> dict[str, Any]:
    keys = graph.relation_keys
    return {"first": keys[pair.first], "second": keys[pair.second], "ratio": pair.ratio}


def _num_repeated(graph: Graph, split: Split) -> int:
    part = graph.triples[split]
    return len(part) - len(distinct(part, graph.num_entities, graph.num_relations))


def _same_phrase(graph: Graph) -> list[dict[str, Any]]:
    by_phrase: dict[str, list[str]] = {}
    for key, phrase in zip(graph.relation_keys, graph.relation_phrases, strict=True):
        by_phrase.setdefault(phrase, []).append(key)
    return [{"phrase": phrase, "relations": keys} for phrase, keys in by_phrase.items() if len(keys) > 1]


def _group_sizes(texts: list[str]) -> npt.NDArray[np.int64]:
    """Return for each text how many times it occurs."""
    ids = pa.array(texts, type=pa.large_string()).dictionary_encode().indices.to_numpy()
    sizes: npt.NDArray[np.int64] = np.bincount(ids)[ids]
    return sizes


def _some(texts: Sequence[str], chosen: npt.NDArray[np.bool_]) -> list[str]:
    return list(dict.fromkeys(texts[row] for row in np.flatnonzero(chosen).tolist()))[:_EXAMPLES]


def _ratio(values: npt.NDArray[np.bool_]) -> float:
    return round(float(values.mean()), 6) if values.size else 0.0
