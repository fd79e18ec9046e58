"""A first line that names the columns: read as a triple it would add two entities and a relation to the graph.

A line is a header only where it cannot well be a triple:

1. its three fields are words for head, relation and tail, in this order, and no other triple has its relation; or
2. all splits begin with the same line, hold more lines than that, and its head, relation and tail stand nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow.compute as pc

from raydistill.errors import DataError
from raydistill.kg.lines import Intake, Rows
from raydistill.kg.triples import Split

_WORDS = {
    "head": {"head", "h", "subject", "subj", "s", "source", "src", "from", "entity1", "head_id", "head_entity"},
    "relation": {"relation", "rel", "r", "predicate", "pred", "p", "relation_id", "relationship", "property", "type"},
    "tail": {"tail", "t", "object", "obj", "o", "target", "dst", "to", "entity2", "tail_id", "tail_entity"},
}


def set_headers_aside(intake: Intake, splits: Mapping[Split, Rows]) -> dict[Split, Rows]:
    """Return the rows of each split without headers, which are remembered as malformed lines.

    Args:
        intake: remembers the headers.
        splits: the rows of each split that has a file, columns head, relation, tail.

    Raises:
        DataError: a header says that the columns stand in another order.
    """
    kept = dict(splits)
    shared = _is_shared(splits)
    for split, rows in splits.items():
        if not len(rows):
            continue
        words = _first(rows)
        kinds = [_kind(word) for word in words]
        is_named = (
            None not in kinds
            and len(set(kinds)) == 3
            and len({len(word) == 1 for word in words}) == 1  # "entity1, r, t" are keys more likely than words.
            and _times(splits, 1, words[1]) == _num_equal(splits, words)
        )
        if is_named and kinds != ["head", "relation", "tail"]:
            raise _other_order(rows, words)
        if is_named or shared:
            good = np.ones(len(rows), dtype=np.bool_)
            good[0] = False
            kept[split] = intake.keep(rows, good, ["a header that names the columns, and no triple; delete the line"])
    return kept


def _is_shared(splits: Mapping[Split, Rows]) -> bool:
    if len(splits) < 2 or any(len(rows) < 2 for rows in splits.values()):
        return False
    firsts = {tuple(_first(rows)) for rows in splits.values()}
    if len(firsts) > 1:
        return False
    head, relation, tail = next(iter(firsts))
    ends = [_times(splits, column, key) for key in {head, tail} for column in (0, 2)]
    num_ends = 2 * len(splits)
    return head != tail and sum(ends) == num_ends and _times(splits, 1, relation) == len(splits)


def _first(rows: Rows) -> list[str]:
    return [column[0].as_py() for column in rows.columns]


def _kind(word: str) -> str | None:
    plain = word.strip("\"' ").lower().replace(" ", "_").removeprefix("#")
    return next((kind for kind, words in _WORDS.items() if plain in words), None)


def _times(splits: Mapping[Split, Rows], column: int, key: str) -> int:
    """Return how many rows of all splits have a key in a column."""
    return sum(int(pc.sum(pc.equal(rows.columns[column], key)).as_py() or 0) for rows in splits.values())


def _num_equal(splits: Mapping[Split, Rows], words: list[str]) -> int:
    """Return how many splits begin with these words."""
    return sum(len(rows) > 0 and _first(rows) == words for rows in splits.values())


def _other_order(rows: Rows, words: list[str]) -> DataError:
    return DataError(
        f"{rows.path}:{int(rows.lines[0])}: a header, {', '.join(words)}",
        expected="the columns head, relation, tail, in this order",
        consequence="entities would be taken for relations",
        remedy="write the columns in this order, and leave the header out",
    )
