"""Queries, and files of them: one a line, three columns, a question mark in the place that is asked for.

virus<TAB>causes<TAB>?          which tails
?<TAB>causes<TAB>disease        which heads
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raydistill.errors import PredictionError

ASKED = "?"
_FORM = "head<TAB>relation<TAB>? or ?<TAB>relation<TAB>tail"


@dataclass(frozen=True)
class Query:
    """One question: (head, relation, ?) or (?, relation, tail).

    Args:
        relation: key or phrase of a relation.
        head: key or name of an entity, or new text; None = it is asked for.
        tail: the same.
        origin: where it was asked, such as "file:line"; "" = on the spot.

    Raises:
        PredictionError: both ends are given, or none.
    """

    relation: str
    head: str | None = None
    tail: str | None = None
    origin: str = ""

    def __post_init__(self) -> None:
        if (self.head is None) == (self.tail is None):
            raise PredictionError(
                f"{self.where}a query with {'no end' if self.head is None else 'both ends'}",
                expected="a head, to ask for tails, or a tail, to ask for heads",
                consequence="nothing would be asked",
                remedy="give one of them",
            )

    @property
    def given(self) -> str:
        """The end that is known."""
        if self.head is not None:
            return self.head
        assert self.tail is not None
        return self.tail

    @property
    def where(self) -> str:
        """What an error begins with."""
        return f"{self.origin}: " if self.origin else ""

    def __str__(self) -> str:
        head, tail = (ASKED if end is None else end for end in (self.head, self.tail))
        return f"({head}, {self.relation}, {tail})"


def read_queries(path: str | Path) -> list[Query]:
    """The queries of a file, in the order of its lines; lines of white space alone are passed over.

    Args:
        path: UTF-8 text, columns separated by tabs.

    Raises:
        PredictionError: naming the first line that is no query; or the file cannot be read, or asks nothing.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as problem:
        raise _refused(str(path), f"cannot be read ({problem.strerror or problem})") from None
    # Bytes are split before they are decoded: other ends of lines than these, which str knows, may stand inside a text.
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    queries = [_query(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not queries:
        raise _refused(str(path), "holds no query")
    return queries


def _query(line: bytes, origin: str) -> Query:
    try:
        cells = [cell.strip() for cell in line.decode("utf-8").split("\t")]
    except UnicodeDecodeError as problem:
        raise _refused(origin, f"is no UTF-8 text (byte {problem.start})") from None
    if len(cells) != 3:
        raise _refused(origin, f"has {len(cells)} column{'s' if len(cells) != 1 else ''}")
    if "" in cells:
        raise _refused(origin, f"column {cells.index('') + 1} is empty")
    head, relation, tail = cells
    if (head == ASKED) == (tail == ASKED):
        raise _refused(origin, "asks for both ends" if head == ASKED else "asks for neither end")
    if tail == ASKED:
        return Query(relation, head=head, origin=origin)
    return Query(relation, tail=tail, origin=origin)


def _refused(place: str, what: str) -> PredictionError:
    return PredictionError(
        f"{place} {what}",
        expected=f"lines of UTF-8 text, each {_FORM}",
        consequence="answers would not stand beside their questions",
        remedy="correct the line, with tabs between its columns",
    )
