"""A first line that names the columns: read as a triple it would add two entities and a relation to the graph.

A line is a header only where it cannot well be a triple:

1. its three fields are words for head, relation and tail, in this order, and no other triple has its relation (nor, where
   the words are counted, as in "entity 1", its head or tail: keys are counted, too); or
2. all splits begin with the same line, hold more lines than that, and its head, relation and tail stand nowhere else.

A line of a file of texts is one where its first field is a word for a key that stands in no triple, and its other fields
are words for texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill.errors import DataError
from raydistill.kg.lines import Intake, Rows
from raydistill.kg.triples import Split

_WORDS = {
    "head": {"head", "h", "subject", "subj", "s", "source", "src", "from", "start", "lhs", "entity1", "node1"},
    "relation": {
        *("relation", "rel", "r", "predicate", "pred", "p", "relationship", "property", "type", "label", "edge"),
        *("relation_type", "rel_type", "relationship_type", "edge_type"),
    },
    "tail": {"tail", "t", "object", "obj", "o", "target", "dst", "to", "end", "rhs", "entity2", "node2"},
}
_KEY_WORDS = {
    *("entity", "node", "concept", "item", "relation", "rel", "predicate", "property"),
    *("id", "key", "mid", "qid", "uri", "code", "identifier"),
}
_TEXT_WORDS = {
    *("text", "texts", "name", "names", "label", "labels", "description", "descriptions", "desc", "definition"),
    *("title", "phrase", "sense", "word", "string"),
}
_MOST_WORDS = 2
_OF_WHAT = re.compile(r"(?<=.)_(?:id|key|name|label|uri|entity|node)$")
_NUMBER = re.compile(r"_?([12])$")
_REASON = "a header that names the columns, and no {}; delete the line"


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
            and (not _is_counted(words) or _num_ends(splits, words) == 2 * _num_equal(splits, words))
        )
        if is_named and kinds != ["head", "relation", "tail"]:
            raise _other_order(rows, words)
        if is_named or shared:
            kept[split] = _without_first(intake, rows, "triple")
    return kept


def set_text_header_aside(intake: Intake, rows: Rows, keys: Iterable[pa.Array]) -> Rows:
    """Return the rows of a file of texts without a header, which is remembered as a malformed line.

    Args:
        intake: remembers the header.
        rows: keys in the first column, texts in the others.
        keys: the keys of the graph, in any number of arrays; a first row about one of them is no header.
    """
    if not len(rows):
        return rows
    key, *texts = _first(rows)
    said = [text for text in texts if text]
    is_named = _says(key, _KEY_WORDS) and bool(said) and all(_says(text, _TEXT_WORDS) for text in said)
    if not is_named or any(pc.any(pc.equal(part, key)).as_py() for part in keys):
        return rows
    return _without_first(intake, rows, "text")


def _without_first(intake: Intake, rows: Rows, kind: str) -> Rows:
    good = np.ones(len(rows), dtype=np.bool_)
    good[0] = False
    return intake.keep(rows, good, [_REASON.format(kind)])


def _is_shared(splits: Mapping[Split, Rows]) -> bool:
    if len(splits) < 2 or any(len(rows) < 2 for rows in splits.values()):
        return False
    firsts = {tuple(_first(rows)) for rows in splits.values()}
    if len(firsts) > 1:
        return False
    words = list(next(iter(firsts)))
    is_only = _num_ends(splits, words) == 2 * len(splits) and _times(splits, 1, words[1]) == len(splits)
    return words[0] != words[2] and is_only


def _first(rows: Rows) -> list[str]:
    return [column[0].as_py() for column in rows.columns]


def _kind(word: str) -> str | None:
    """Return what a word names: "Subject ID" a head, "node_2" a tail, "edge label" a relation."""
    plain = _plain(word)
    while plain:
        counted = _NUMBER.sub(r"\1", plain)
        kind = next((kind for kind, words in _WORDS.items() if counted in words), None)
        shorter = _without_unit(plain)
        if kind or shorter == plain:
            return kind
        plain = shorter
    return None


def _without_unit(plain: str) -> str:
    """Take the last word off that says how something is named: "entity_id_1" is "entity_1"."""
    number = _NUMBER.search(plain)
    stem = plain[: number.start()] if number else plain
    return _OF_WHAT.sub("", stem) + (number[1] if number else "")


def _is_counted(words: list[str]) -> bool:
    return any(character.isdigit() for word in words for character in word)


def _says(text: str, words: set[str]) -> bool:
    """Tell whether a text is one of some words, alone or behind one other: "entity_id", "long text"."""
    parts = _plain(text).split("_")
    return len(parts) <= _MOST_WORDS and parts[-1] in words


def _plain(word: str) -> str:
    return re.sub(r"[ _-]+", "_", word.strip("\"' ").lstrip("#:").strip().lower())


def _num_ends(splits: Mapping[Split, Rows], words: list[str]) -> int:
    """Return how often the first or the last of three words stands at either end of a triple."""
    return sum(_times(splits, column, key) for key in {words[0], words[2]} for column in (0, 2))


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
