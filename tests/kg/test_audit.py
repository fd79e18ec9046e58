from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydistill.errors import DataError
from raydistill.kg.audit import audit_graph, describe
from raydistill.kg.graph import Graph
from raydistill.kg.lines import Intake
from raydistill.kg.overlap import near_duplicate, near_inverse
from raydistill.kg.sources import read_source

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=30)


def _table(rows: list[tuple[int, int, int]]) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array(rows, dtype=np.int32).reshape(-1, 3)


@pytest.fixture
def audit() -> dict[str, Any]:
    graph = Graph(
        "tsv",
        entity_keys=["a", "b", "c", "d", "e"],
        entity_names=["Ann", "Bob", "Ann", "Ann", "Eve"],
        entity_descriptions=["x", "y", "z", "x", ""],
        relation_keys=["r", "s", "t"],
        relation_phrases=["is", "is", "has"],
        triples={
            "train": _table([(0, 0, 1), (0, 0, 1), (1, 1, 0), (1, 0, 2)]),
            "valid": _table([(0, 0, 1), (2, 2, 1)]),
            "test": _table([(4, 0, 1), (1, 2, 0)]),
        },
        unnamed=np.array([False, False, True, False, False]),
        unphrased=np.array([False, False, True]),
    )
    return audit_graph(graph, Intake())


def test_hand_counted_oddities(audit: dict[str, Any]) -> None:
    """Each number explains a metric; one counted wrongly explains it away."""
    assert audit["counts"] == {"entities": 5, "relations": 3, "train": 4, "valid": 2, "test": 2}
    assert audit["duplicate_triples"] == {"train": 1, "valid": 0, "test": 0}
    texts = audit["texts"]
    assert (texts["entities_sharing_a_name"], texts["entities_sharing_a_text"]) == (3, 2)
    assert texts["entities_sharing_a_text_examples"] == ["a", "d"]
    assert (texts["entities_without_name"], texts["entities_without_name_examples"]) == (1, ["c"])
    assert (texts["entities_without_description"], texts["relations_without_phrase"]) == (1, 1)
    assert texts["test_answers_sharing_a_name_ratio"] == 0.25
    assert texts["relations_sharing_a_phrase"] == [{"phrase": "is", "relations": ["r", "s"]}]
    assert audit["unseen_in_train"] == {
        "valid": {"entities": 0, "relations": 1, "triples": 1},
        "test": {"entities": 1, "relations": 1, "triples": 2},
    }
    assert [audit["leakage"]["valid"][key] for key in ("in_train", "swapped_in_train")] == [1, 2]
    assert [audit["leakage"]["test"][key] for key in ("in_train", "swapped_in_train")] == [0, 1]


def test_describe_names_both_relations_of_a_clash(audit: dict[str, Any]) -> None:
    """Two relations under one phrase cannot be told apart by a text model: the reader must hear which."""
    said = "\n".join(describe(audit))
    assert 'r and s share the phrase "is"' in said
    assert "5 entities, 3 relations, 4 / 2 / 2 triples" in said
    assert "1 valid triples (50.0%) are in train too" in said


def test_describe_refuses_what_is_no_audit() -> None:
    """A damaged audit must not end in a KeyError on the command line."""
    with pytest.raises(DataError, match="counts"):
        describe({})


@settings(max_examples=80, deadline=None)
@given(ROWS)
def test_relation_overlap_agrees_with_sets(rows: list[tuple[int, int, int]]) -> None:
    """The join over sorted keys is quick; the sets below are the definition."""
    pairs = {relation: {(h, t) for h, r, t in rows if r == relation} for relation in range(3)}
    proper = {relation: {(h, t) for h, t in found if h != t} for relation, found in pairs.items()}
    inverse, duplicate = set(), set()
    for first in range(3):
        for second in range(first, 3):
            swapped = {(t, h) for h, t in proper[second]}
            if proper[first] and len(proper[first] & swapped) >= 0.8 * max(len(proper[first]), len(swapped)):
                inverse.add((first, second))
            same = pairs[first] & pairs[second]
            if first != second and same and len(same) >= 0.8 * max(len(pairs[first]), len(pairs[second])):
                duplicate.add((first, second))
    assert {(pair.first, pair.second) for pair in near_inverse(_table(rows), 4, 3)} == inverse
    assert {(pair.first, pair.second) for pair in near_duplicate(_table(rows), 4, 3)} == duplicate


def test_known_facts_of_wn18rr(real_folder: Callable[[str], Path]) -> None:
    """Published and measured: 210 test triples hold an unseen entity, 40.7 % of queries point at a homonym."""
    audit = audit_graph(read_source(real_folder("WN18RR"), "auto", Intake()), Intake())
    assert audit["unseen_in_train"]["test"]["triples"] == 210
    assert audit["texts"]["test_answers_sharing_a_name_ratio"] == pytest.approx(0.407, abs=5e-4)
    assert audit["texts"]["entities_sharing_a_text"] == 0
    assert audit["leakage"]["test"]["in_train"] == 0
    symmetric = {pair["first"] for pair in audit["relations"]["symmetric"]}
    assert symmetric == {"_derivationally_related_form", "_verb_group", "_similar_to"}
