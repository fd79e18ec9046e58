"""What a word means: which of a key and a name comes first, and what is as good as another."""

from __future__ import annotations

import pytest

from raydistill.errors import PredictionError
from raydistill.shipping.matching import places_of, the_relation


def test_keys_come_before_names_and_equal_ones_before_loose_ones() -> None:
    """Asked about Apple, the company, the answers are those of the fruit, whose key is the same word in small letters."""
    keys, names = ["apple", "Q312", "APPLE PIE", "Q7"], ["the fruit", "Apple", "Q312", "apple pie"]
    asked = ["Apple", "apple", "aPPle", "Q312", "apple pie", " Apple Pie ", "THE FRUIT", "pear"]
    assert places_of(asked, keys, names) == {
        "Apple": [1],
        "apple": [0],
        "aPPle": [0],
        "Q312": [1],
        "apple pie": [3],
        " Apple Pie ": [2],
        "THE FRUIT": [0],
        "pear": [],
    }
    assert places_of({"Apple"}, ["apple", "Q312"], ["the fruit", "Apple"]) == {"Apple": [1]}


def test_all_that_fit_equally_are_found() -> None:
    """The first of two homonyms is not what was meant."""
    assert places_of(["Rome"], ["a", "b", "c"], ["Rome", "rome", "Rome"]) == {"Rome": [0, 2]}
    assert places_of(["ROME"], ["a", "b", "c"], ["Rome", "rome", "Roma"]) == {"ROME": [0, 1]}


def test_relation_of_an_equal_phrase_comes_before_one_of_a_loose_key() -> None:
    """The same, with another relation's answers."""
    keys, phrases = ["part of", "r2", "r3"], ["piece", "Part of", "part"]
    assert [the_relation(word, keys, phrases) for word in ("Part of", "part of", "PART OF", "PART")] == [1, 0, 0, 2]
    with pytest.raises(PredictionError, match="'part' is ambiguous"):
        the_relation("part", ["r1", "r2"], ["part", "part"])
