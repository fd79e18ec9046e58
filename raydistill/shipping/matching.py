"""Which entity or relation of a graph is meant by a word: its key, else what people call it, letter for letter before but for case."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

from raydistill.errors import PredictionError


def matches(asked: Collection[str], labels: Sequence[str]) -> dict[str, list[int]]:
    """The places of each asked word among labels: equal ones, else those that are equal but for case and space at the ends.

    All words are looked for in the same pass, because an index of a graph's millions of labels would cost more than the answer.

    Args:
        asked: words.
        labels: keys, names or phrases.

    Returns:
        For each word the places, ascending; none where no label fits.
    """
    found: dict[str, list[int]] = {word: [] for word in asked}
    for place, label in enumerate(labels):
        if label in found:
            found[label].append(place)
    loosely: dict[str, list[str]] = {}
    for word in (word for word, places in found.items() if not places):
        loosely.setdefault(word.strip().casefold(), []).append(word)
    if loosely:
        for place, label in enumerate(labels):
            for word in loosely.get(label.casefold(), ()):
                found[word].append(place)
    return found


def entities_of(asked: Collection[str], keys: Sequence[str], names: Sequence[str]) -> dict[str, list[int]]:
    """The entities that each asked word may mean: by key, else by name; none = it is new text."""
    by_key = matches(asked, keys)
    by_name = matches([word for word, places in by_key.items() if not places], names)
    return {**by_key, **by_name}


def the_entity(asked: str, found: Sequence[int], keys: Sequence[str], origin: str = "") -> int | None:
    """The one entity that is meant; None = new text.

    Args:
        asked: the word.
        found: what it may mean.
        keys: of all entities.
        origin: where it was asked, for the error; "" = on the spot.

    Raises:
        PredictionError: the word is empty, or several entities share it.
    """
    if len(found) > 1:
        listed = ", ".join(keys[place] for place in found[:8])
        raise PredictionError(
            f"{origin}{asked!r} names {len(found)} entities: {listed}{', ...' if len(found) > 8 else ''}",
            expected="one entity",
            consequence="the answer would be about whichever comes first",
            remedy="give its key",
        )
    if not found and not asked.strip():
        raise PredictionError(
            f"{origin}an empty head or tail",
            expected="a key, a name, or new text",
            consequence="the answer would be about nothing",
            remedy="say which entity is meant",
        )
    return found[0] if found else None


def the_relation(asked: str, keys: Sequence[str], phrases: Sequence[str], origin: str = "") -> int:
    """The one relation that is meant.

    Args:
        asked: its key or phrase.
        keys: of all relations.
        phrases: of all relations.
        origin: where it was asked, for the error; "" = on the spot.

    Raises:
        PredictionError: there is none, or several.
    """
    found = matches([asked], keys)[asked] or matches([asked], phrases)[asked]
    if len(found) == 1:
        return found[0]
    close = difflib.get_close_matches(asked, list(dict.fromkeys([*phrases, *keys])), n=3)
    raise PredictionError(
        f"{origin}relation {asked!r} {'is ambiguous' if found else 'is not in the graph'}",
        expected=f"one of {', '.join(close or phrases[:5])}",
        consequence="the model has learned nothing about it",
        remedy="give a relation's key or phrase",
    )
