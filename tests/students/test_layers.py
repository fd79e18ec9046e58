from __future__ import annotations

import pytest

from raydistill.errors import CapabilityError
from raydistill.students.layers import RULES, resolve_layer_map

TABLE: list[tuple[str, int, int, tuple[int, ...]]] = [
    ("skip", 12, 12, tuple(range(12))),
    ("skip", 12, 9, (0, 2, 3, 5, 6, 7, 9, 10, 11)),
    ("skip", 12, 6, (1, 3, 5, 7, 9, 11)),
    ("skip", 12, 3, (2, 6, 10)),
    ("skip", 6, 6, (0, 1, 2, 3, 4, 5)),
    ("skip", 6, 4, (0, 2, 3, 5)),
    ("skip", 6, 3, (1, 3, 5)),
    ("skip", 6, 2, (1, 4)),
    ("skip", 4, 1, (2,)),
    ("uniform", 12, 12, tuple(range(12))),
    ("uniform", 12, 6, (0, 2, 4, 7, 9, 11)),
    ("uniform", 12, 3, (0, 6, 11)),
    ("uniform", 6, 4, (0, 2, 3, 5)),
    ("uniform", 6, 2, (0, 5)),
    ("uniform", 12, 1, (11,)),
    ("first", 12, 3, (0, 1, 2)),
    ("first", 6, 4, (0, 1, 2, 3)),
    ("last", 12, 3, (9, 10, 11)),
    ("last", 6, 2, (4, 5)),
]


@pytest.mark.parametrize(("rule", "source", "student", "expected"), TABLE)
def test_rules_give_the_published_layers(rule: str, source: int, student: int, expected: tuple[int, ...]) -> None:
    """PMD's 9, 6 and 3 of 12, and what a rule means elsewhere: an index off by one takes other layers without a sign."""
    assert resolve_layer_map(rule, source, student) == expected


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_rising_layers_of_the_source_at_any_depth(rule: str) -> None:
    """A layer taken twice, or one that the source does not have, at a depth nobody tried."""
    for source in range(1, 33):
        for student in range(1, source + 1):
            layers = resolve_layer_map(rule, source, student)
            assert len(layers) == student
            assert list(layers) == sorted(set(layers))
            assert layers[0] >= 0
            assert layers[-1] < source
            if student == source:
                assert layers == tuple(range(source))


@pytest.mark.parametrize("rule", ["uniform", "last"])
def test_last_layer_is_kept_by_the_rules_that_promise_it(rule: str) -> None:
    """The layer that the pre-trained pooling was made for is dropped."""
    assert all(
        resolve_layer_map(rule, source, student)[-1] == source - 1
        for source in range(2, 25)
        for student in range(1, source)
    )


def test_explicit_map_is_taken_as_it_is() -> None:
    """An explicit choice that is silently replaced by a rule's."""
    assert resolve_layer_map((0, 4, 11), 12, 3) == (0, 4, 11)


@pytest.mark.parametrize(
    ("layer_map", "source", "student", "what"),
    [
        ((0, 12), 6, 2, r"layer 12 does not exist"),
        ((1, 3, 6), 6, 3, r"layer 6 does not exist"),
        ((-1, 3), 6, 2, r"layer -1 does not exist"),
        ((3, 1), 6, 2, r"must rise"),
        ((1, 1), 6, 2, r"must rise"),
        ((1, 2, 3), 6, 2, r"one per student layer"),
        ((), 6, 2, r"one per student layer"),
        ("skip", 6, 9, r"a student of 9 layers from a model of 6"),
        (tuple(range(9)), 6, 9, r"a student of 9 layers from a model of 6"),
        ("middle", 6, 3, r"layer map 'middle'"),
    ],
)
def test_impossible_map_is_refused(layer_map: str | tuple[int, ...], source: int, student: int, what: str) -> None:
    """Layers counted from one, or a typing error: found before anything is trained, with a map that would do."""
    with pytest.raises(CapabilityError, match=what) as raised:
        resolve_layer_map(layer_map, source, student)
    assert raised.value.expected
