"""Reading files of tab- or comma-separated lines so that no line is lost: each is loaded, blank, or named as malformed.

A file is first taken as a whole: if its bytes show the right number of separators on every line, valid UTF-8 and no control
characters, the columns are cut by pyarrow. Only where something is wrong does a second, exact pass go line by line to
say what.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydistill.errors import DataError
from raydistill.kg.columns import cut_columns, fields_of, plain_name, read_bytes
from raydistill.kg.commas import cut_at_commas, fields_at_commas, other_separator

_SHOWN_LINES, _SHOWN_CHARACTERS = 10, 60


@dataclass(frozen=True)
class Malformed:
    """A line that could not be loaded: where it stands, why, and its bytes."""

    file: str
    line: int
    reason: str
    raw: bytes


@dataclass(frozen=True, eq=False)
class Rows:
    """The loaded lines of one file.

    Attributes:
        path: the file.
        columns: one string array per column, all of the same length.
        lines: `(rows,)` line number of each row, from 1.
    """

    path: Path
    columns: list[pa.Array]
    lines: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lines)

    def strings(self, column: int) -> list[str]:
        """Return one column as Python strings."""
        values: list[str] = self.columns[column].to_pylist()
        return values

    def raw(self, row: int) -> bytes:
        """Put the fields of a row together again, for a complaint about it: as the file separates them, without spaces around them."""
        fields = [column[row].as_py() for column in self.columns]
        if not has_commas(self.path):
            return "\t".join(fields).encode()
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(fields)
        return line.getvalue().encode()


def has_commas(path: Path) -> bool:
    """Tell whether the name of a file says that commas separate its fields."""
    return plain_name(path).endswith(".csv")


@dataclass
class Intake:
    """All lines taken in from one source, and what became of them.

    Attributes:
        malformed: the lines that could not be loaded, in reading order.
        tally: per file the number of lines, blank lines and malformed lines; the rest was loaded.
    """

    malformed: list[Malformed] = field(default_factory=list)
    tally: dict[str, dict[str, int]] = field(default_factory=dict)

    def read(self, path: Path, *, columns: int, keys: int, header_lines: int = 0, may_use_spaces: bool = False) -> Rows:
        """Read one file; malformed lines are remembered, not raised.

        Args:
            path: a text file, or one packed by gzip if its name ends in .gz; one whose name ends in .csv before that
                is separated by commas, any other by tabs.
            columns: number of columns, at least 2.
            keys: the first so many columns hold keys, which are neither empty nor hold control characters; the others
                are free text.
            header_lines: so many lines at the top are no rows.
            may_use_spaces: a file without a single tab is separated by spaces.

        Raises:
            DataError: the file cannot be read at all, or is a table of keys that is separated by something else.
        """
        is_csv = has_commas(path)
        data = read_bytes(path)
        for _ in range(header_lines):
            data = data.partition(b"\n")[2]
        if may_use_spaces and b"\t" not in data:
            data = b"\n".join(b"\t".join(line.split()) for line in data.split(b"\n"))
        found = (cut_at_commas if is_csv else cut_columns)(data, columns, keys)
        if found is None:
            if columns == keys and plain_name(path).endswith((".csv", ".tsv", ".txt")) and not may_use_spaces:
                _refuse_other_separator(path, data, columns, "," if is_csv else "\t")
            parse = fields_at_commas if is_csv else fields_of
            rows = self._read_line_by_line(path, data, lambda line: parse(line, columns, keys), columns, header_lines)
        else:
            rows = Rows(path, found, np.arange(1, len(found[0]) + 1, dtype=np.int64) + header_lines)
            self.tally[path.name] = {"lines": len(rows), "blank": 0, "malformed": 0}
        return rows

    def reject(self, path: Path, line: int, reason: str, raw: bytes) -> None:
        """Remember a line that was read but cannot be used."""
        self.malformed.append(Malformed(path.name, line, reason, raw))
        self.tally[path.name]["malformed"] += 1

    def keep(self, rows: Rows, good: npt.NDArray[np.bool_], reasons: Iterable[str]) -> Rows:
        """Return the good rows and remember the others.

        Args:
            rows: the rows of one file.
            good: `(rows,)`, True = keep.
            reasons: why, for each row that is not kept, in order.
        """
        if good.all():
            return rows
        for row, reason in zip(np.flatnonzero(~good).tolist(), reasons, strict=True):
            self.reject(rows.path, int(rows.lines[row]), reason, rows.raw(row))
        kept = pa.array(good)
        return Rows(rows.path, [column.filter(kept) for column in rows.columns], rows.lines[good])

    def refuse_malformed(self, source: str) -> None:
        """Refuse the source if any line was malformed.

        Raises:
            DataError: listing the first ten malformed lines and how many there are.
        """
        if not self.malformed:
            return
        shown = [f"{bad.file}:{bad.line}: {bad.reason}: {_excerpt(bad.raw)}" for bad in self.malformed[:_SHOWN_LINES]]
        more = len(self.malformed) - len(shown)
        listing = "\n    ".join([*shown, *([f"... and {more} more"] if more else [])])
        raise DataError(
            f"{source}: {len(self.malformed)} malformed line(s)\n    {listing}",
            expected="every line loads",
            consequence="the graph would silently lack these lines",
            remedy="mend the lines, or prepare with --quarantine (in Python, quarantine=True) to set them aside in quarantine.tsv",
        )

    def _read_line_by_line(
        self, path: Path, data: bytes, parse: Callable[[bytes], list[str] | str], columns: int, header_lines: int
    ) -> Rows:
        lines = data.split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        self.tally[path.name] = {"lines": len(lines), "blank": 0, "malformed": 0}
        loaded: list[list[str]] = []
        numbers: list[int] = []
        for number, line in enumerate(lines, start=1 + header_lines):
            line = line.removesuffix(b"\r")
            if not line.strip(b" "):
                self.tally[path.name]["blank"] += 1
                continue
            fields = parse(line)
            if isinstance(fields, str):
                self.reject(path, number, fields, line)
            else:
                loaded.append(fields)
                numbers.append(number)
        parts = [pa.array([fields[index] for fields in loaded], type=pa.large_string()) for index in range(columns)]
        return Rows(path, parts, np.array(numbers, dtype=np.int64))


def escape(raw: bytes) -> str:
    """Return bytes as one printable line: no tab, no line end, and what is not UTF-8 as \\xNN."""
    text = raw.replace(b"\\", b"\\\\").decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _refuse_other_separator(path: Path, data: bytes, columns: int, separator: str) -> None:
    """Refuse a file without a single separator whose first line seems to have another one: every line would be malformed."""
    first = next((line for line in data.split(b"\n", 100)[:100] if line.strip()), b"").strip(b"\r")
    other = "" if separator.encode() in data else other_separator(first, columns, separator)
    if not other:
        return
    raise DataError(
        f"{path}: it looks {other}-separated: {_excerpt(first)}",
        expected=f"{columns} columns separated by {'commas' if separator == ',' else 'tabs'}, as the ending of the name says",
        consequence="not one line would load",
        remedy={
            "comma": "rename the file so that it ends in .csv (or .csv.gz)",
            "tab": "rename the file so that it ends in .tsv (or .tsv.gz)",
            "semicolon": "write the file with tabs (.tsv) or commas (.csv)",
        }[other],
    )


def _excerpt(raw: bytes) -> str:
    text = escape(raw[: 4 * _SHOWN_CHARACTERS])
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
