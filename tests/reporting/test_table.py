"""Numbers as text, and one table in three looks."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from raydistill.reporting.table import Table, count, duration, number, plain, share, size

TABLE = Table("a | title", ("name", "MRR"), (("[red]x[/red] | <b>", "0.500"),))


def test_terminal_shows_brackets_as_they_are() -> None:
    """Entity names hold brackets; read as markup they vanish, or end the program."""
    stream = io.StringIO()
    Console(file=stream, width=120).print(TABLE.as_rich())
    assert "[red]x[/red] | <b>" in stream.getvalue()
    assert "a | title" in stream.getvalue()


def test_markdown_escapes_what_ends_a_cell() -> None:
    """A bar inside a cell would shift every number of its row by a column."""
    assert TABLE.as_markdown() == "**a | title**\n\n| name | MRR |\n| --- | ---: |\n| [red]x[/red] \\| <b> | 0.500 |\n"


def test_html_escapes_every_cell() -> None:
    """A name from a graph must not become part of the page."""
    page = TABLE.as_html()
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert '<td class="number">0.500</td>' in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (number(0.12345), "0.123"),
        (number(None), "–"),
        (number(math.nan), "–"),
        (share(0.9712), "97.1 %"),
        (count(22_713_216), "22.7 M"),
        (count(4096), "4,096"),
        (size(90.5 * 2**20), "90.5 MiB"),
        (size(100), "100 B"),
        (duration(59.6), "1:00"),
        (duration(3723), "1:02:03"),
        (duration(-3), "0:00"),
        (plain(0.1 + 0.2), "0.3"),
        (plain([0, 2, 5]), "0-2-5"),
        (plain("skip"), "skip"),
        (plain(None), "–"),
    ],
)
def test_numbers_become_short_text(text: str, shown: str) -> None:
    """A number that is absent must not read as zero, nor sixteen digits as precision."""
    assert text == shown
