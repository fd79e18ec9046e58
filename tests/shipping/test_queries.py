"""Files of queries: every line is a question, or is refused by its number."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydistill.errors import PredictionError
from raydistill.shipping.queries import Query, read_queries


def written(folder: Path, content: bytes) -> Path:
    path = folder / "queries.tsv"
    path.write_bytes(content)
    return path


def test_lines_are_queries_in_their_order(tmp_path: Path) -> None:
    """A file of another system has a mark before it and carriage returns in it; names may hold what str takes for ends of lines."""
    path = written(tmp_path, "\ufeffÓsló\tlives in\t?\r\n\r\n  \n?\tlives in\t a\u2028b: c \n".encode())
    assert read_queries(path) == [
        Query("lives in", head="Ósló", origin=f"{path}:1"),
        Query("lives in", tail="a\u2028b: c", origin=f"{path}:4"),
    ]
    assert [str(query) for query in read_queries(path)] == ["(Ósló, lives in, ?)", "(?, lives in, a\u2028b: c)"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"a b c", "has 1 column"),
        (b"a\tb", "has 2 columns"),
        (b"a\tb\tc\t?", "has 4 columns"),
        (b"a\t\t?", "column 2 is empty"),
        (b" \tb\t?", "column 1 is empty"),
        (b"a\tb\tc", "asks for neither end"),
        (b"?\tb\t?", "asks for both ends"),
        (b"a\t\xff\t?", r"is no UTF-8 text \(byte 2\)"),
    ],
)
def test_malformed_line_is_refused_with_its_number(tmp_path: Path, line: bytes, said: str) -> None:
    """A line that is passed over leaves its question unanswered, and nobody knows which."""
    path = written(tmp_path, b"a\tb\t?\n" + line + b"\n")
    with pytest.raises(PredictionError, match=rf"queries\.tsv:2 {said}"):
        read_queries(path)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_file_that_asks_nothing_is_refused(tmp_path: Path, content: bytes) -> None:
    """No output at all looks like a result."""
    with pytest.raises(PredictionError, match="holds no query"):
        read_queries(written(tmp_path, content))


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A traceback for a mistyped path."""
    with pytest.raises(PredictionError, match="cannot be read"):
        read_queries(tmp_path)


@pytest.mark.parametrize(("head", "tail", "said"), [(None, None, "no end"), ("a", "b", "both ends")])
def test_query_has_one_end(head: str | None, tail: str | None, said: str) -> None:
    """Of two ends one would be passed over."""
    with pytest.raises(PredictionError, match=f"x:1: a query with {said}"):
        Query("r", head=head, tail=tail, origin="x:1")
