"""A table of text, and its three looks: terminal, Markdown, HTML. Numbers become text in one place, so that all looks agree."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass

from rich.table import Table as RichTable
from rich.text import Text

ABSENT = "–"
"""What printed tables have in a cell without a number."""


@dataclass(frozen=True)
class Table:
    """Rows of text under named columns.

    Attributes:
        title: what the table shows, and how its numbers came about.
        columns: heading of each column.
        rows: cells, as many per row as there are columns.
        left: how many columns from the left hold words; the others hold numbers and are aligned right.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1

    def as_rich(self) -> RichTable:
        """The table for a terminal."""
        table = RichTable(title=Text(self.title), title_justify="left", title_style="bold")
        for index, column in enumerate(self.columns):
            table.add_column(Text(column), justify="left" if index < self.left else "right", overflow="fold")
        for row in self.rows:
            # Text, because a bracket in a name is no markup.
            table.add_row(*(Text(cell) for cell in row))
        return table

    def as_markdown(self) -> str:
        """The table for a README."""
        rules = ["---" if index < self.left else "---:" for index in range(len(self.columns))]
        lines = [self.columns, rules, *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"**{self.title}**\n\n{body}\n"

    def as_html(self) -> str:
        """The table for the report page, every cell escaped."""
        head = "".join(f"<th>{html.escape(column)}</th>" for column in self.columns)
        body = "".join(
            "<tr>"
            + "".join(
                f'<td class="{"word" if index < self.left else "number"}">{html.escape(cell)}</td>'
                for index, cell in enumerate(row)
            )
            + "</tr>\n"
            for row in self.rows
        )
        caption = f"<caption>{html.escape(self.title)}</caption>"
        return f"<table>{caption}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>"


def number(value: float | None, digits: int = 3) -> str:
    """A number with a fixed count of decimals, or a dash where there is none."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """A share as a percentage."""
    return ABSENT if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def count(value: float | None) -> str:
    """A count of parameters, in millions from a million on."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{value / 1e6:.1f} M" if value >= 1e6 else f"{value:,.0f}"


def size(value: float | None) -> str:
    """A size in bytes, in MiB from one on."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{value / 2**20:.1f} MiB" if value >= 2**20 else f"{value:,.0f} B"


def duration(seconds: float | None) -> str:
    """A time as h:mm:ss or m:ss."""
    if seconds is None or not math.isfinite(seconds):
        return ABSENT
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plain(value: object) -> str:
    """A searched value in words: floats short, layer maps as 0-2-4."""
    if value is None:
        return ABSENT
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return "-".join(str(part) for part in value)
    return str(value)
