"""Which entity or relation of a graph is meant by a word: its key, else what people call it, letter for letter; only then either of them but for case."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

from raydistill.errors import PredictionError


def places_of(asked: Collection[str], keys: Sequence[str], names: Sequence[str]) -> dict[str, list[int]]:
    """The entities, or relations, that each asked word may mean: those of an equal key, else of an equal name, else of a key, and at last of a name, that is equal but for case and space at the ends.

    All words are looked for in the same pass, because an index of a graph's millions of labels would cost more than the answer.

    Args:
        asked: words.
        keys: of all of them.
        names: what people call them, or phrases.

    Returns:
        For each word the places, ascending; none where no label fits.
    """
    found: dict[str, list[int]] = {word: [] for word in asked}
    for look in (_equal, _loosely_equal):
        for labels in (keys, names):
            if missing := [word for word, places in found.items() if not places]:
                look(missing, labels, found)
    return found


def _equal(asked: Sequence[str], labels: Sequence[str], found: dict[str, list[int]]) -> None:
    words = set(asked)
    for place, label in enumerate(labels):
        if label in words:
            found[label].append(place)


def _loosely_equal(asked: Sequence[str], labels: Sequence[str], found: dict[str, list[int]]) -> None:
    words: dict[str, list[str]] = {}
    for word in asked:
        words.setdefault(word.strip().casefold(), []).append(word)
    for place, label in enumerate(labels):
        for word in words.get(label.casefold(), ()):
            found[word].append(place)


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
    found = places_of([asked], keys, phrases)[asked]
    if len(found) == 1:
        return found[0]
    close = difflib.get_close_matches(asked, list(dict.fromkeys([*phrases, *keys])), n=3)
    raise PredictionError(
        f"{origin}relation {asked!r} {'is ambiguous' if found else 'is not in the graph'}",
        expected=f"one of {', '.join(close or phrases[:5])}",
        consequence="the model has learned nothing about it",
        remedy="give a relation's key or phrase",
    )
