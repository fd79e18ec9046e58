"""Entities that a predictor is given after the graph was prepared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raydistill.errors import PredictionError
from raydistill.kg.text import clean_text, join_text


@dataclass(frozen=True)
class Added:
    """One of them.

    Args:
        name: what people call it, and its key.
        text: what the encoders read.
    """

    name: str
    text: str


def checked_additions(names: Sequence[str], descriptions: Sequence[str] | None, taken: Iterable[str]) -> list[Added]:
    """New entities, their white space cleaned.

    Args:
        names: what people call them.
        descriptions: one for each, "" = none; None = none has one.
        taken: keys and names that are there already.

    Raises:
        PredictionError: an empty or repeated name, one that is taken, or another number of descriptions.
    """
    for what, given in (("names", names), ("descriptions", descriptions)):
        if isinstance(given, str):
            raise _refused(f"{what} = {given!r}, one text", f"a list of {what}", "write it in brackets")
    texts = [""] * len(names) if descriptions is None else descriptions
    if len(texts) != len(names):
        raise _refused(
            f"{len(names)} names and {len(texts)} descriptions",
            "one description for each name",
            'give "" where there is none',
        )
    cleaned = [clean_text(name) for name in names]
    if "" in cleaned:
        raise _refused(f"name {cleaned.index('') + 1} is empty", "a name for each new entity", "name it")
    seen: set[str] = set()
    for name in cleaned:
        if name in seen:
            raise _refused(
                f"{name!r} is there twice", "distinct names", "leave one out, or name the other one otherwise"
            )
        seen.add(name)
    known = seen.intersection(taken)
    if known:
        first = next(name for name in cleaned if name in known)
        raise _refused(
            f"{first!r} is an entity already" + (f", and so are {len(known) - 1} more" if len(known) > 1 else ""),
            "names that no entity has, as a key or as a name",
            f"ask about the one that is there, or name the new one otherwise, such as {first + ' (new)'!r}",
        )
    return [Added(name, join_text(name, text, [])) for name, text in zip(cleaned, texts, strict=True)]


def _refused(received: str, expected: str, remedy: str) -> PredictionError:
    return PredictionError(
        received,
        expected=expected,
        consequence="an answer could not be told from another one's",
        remedy=remedy,
    )
