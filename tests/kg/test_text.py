from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydistill.errors import DataError
from raydistill.kg.text import NeighborIndex, TextRule, entity_text, inverse_phrase, join_text


@pytest.mark.parametrize(
    ("name", "description", "neighbors", "text"),
    [
        ("stool", "solid product", [], "stool: solid product"),
        ("stool", "solid product", ["chair", "bench"], "stool: solid product chair bench"),
        ("stool", "", ["chair", "bench"], "stool: chair bench"),
        ("stool", "", [], "stool"),
        ("stool", "  ", ["", " "], "stool"),
        (" bar \t stool ", "a\nhigh\u00a0 seat", [" dining  chair"], "bar stool: a high seat dining chair"),
    ],
)
def test_join_text(name: str, description: str, neighbors: list[str], text: str) -> None:
    """Another separator or a stray space gives other tokens than the pieces do."""
    assert join_text(name, description, neighbors) == text


def test_inverse_phrase_says_so() -> None:
    """Without the prefix a head query would read like a tail query."""
    assert inverse_phrase(" member  meronym") == "inverse member meronym"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1), st.integers(0, 6)), max_size=25))
def test_neighbors_agree_with_sets(rows: list[tuple[int, int, int]]) -> None:
    """A missed, repeated or self neighbour changes the text of an entity."""
    index = NeighborIndex.from_triples(np.array(rows, dtype=np.int32).reshape(-1, 3), 7)
    for entity in range(7):
        beside = {tail for head, _, tail in rows if head == entity} | {head for head, _, tail in rows if tail == entity}
        expected = sorted(beside - {entity})
        assert index.first(entity, 100).tolist() == expected
        assert index.first(entity, 2).tolist() == expected[:2]
        assert index.first(entity, 0).tolist() == []


def test_neighbors_refuse_ids_out_of_range() -> None:
    """An id beyond the last would be folded onto another entity by the key arithmetic."""
    with pytest.raises(DataError, match="out of range"):
        NeighborIndex.from_triples(np.array([[0, 0, 7]], dtype=np.int32), 7)


def test_entity_text_leaves_the_answer_out() -> None:
    """The answer's name among the neighbours would be read off instead of learnt."""
    names, descriptions = ["ann", "bob", "carl", "dora"], ["", "one two three", "", ""]
    train = np.array([[0, 0, 1], [0, 0, 2], [3, 0, 0], [1, 0, 2]], dtype=np.int32)
    neighbors = NeighborIndex.from_triples(train, 4)
    assert entity_text(0, names, descriptions, neighbors=neighbors) == "ann: bob carl dora"
    assert entity_text(0, names, descriptions, neighbors=neighbors, answer=2) == "ann: bob dora"
    assert entity_text(0, names, descriptions) == "ann"
    two = TextRule(max_neighbors=2)
    assert entity_text(0, names, descriptions, neighbors=neighbors, rule=two, answer=1) == "ann: carl"


def test_entity_text_borrows_names_only_for_short_descriptions() -> None:
    """SimKGC counts words below 20, not up to 20; one off changes the text of every such entity."""
    neighbors = NeighborIndex.from_triples(np.array([[0, 0, 1]], dtype=np.int32), 2)
    names, descriptions = ["ann", "bob"], ["one two three", ""]
    three, four = TextRule(short_description_words=3), TextRule(short_description_words=4)
    assert entity_text(0, names, descriptions, neighbors=neighbors, rule=three) == "ann: one two three"
    assert entity_text(0, names, descriptions, neighbors=neighbors, rule=four) == "ann: one two three bob"
