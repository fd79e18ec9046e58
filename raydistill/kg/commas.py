"""Comma-separated triples: quotes are undone, and each line of the file is one row, so that errors can name it."""

from __future__ import annotations

import csv as plain_csv
import re

import pyarrow as pa
from pyarrow import csv

from raydistill.kg.columns import checked_fields, is_regular, num_lines, parsed, why_unreadable

_FIELD = rb'(?:"(?:[^"\n]++|"")*+"|[^",\n]*+)'
_SPACED_FIELD = r'(?: *"(?:[^"]++|"")*+" *|[^",]*+)'
_SPACED_LINE = re.compile(rf"{_SPACED_FIELD}(?:,{_SPACED_FIELD})*+")


def cut_at_commas(data: bytes, columns: int, keys: int) -> list[pa.Array] | None:
    """Cut well-formed comma-separated content into columns; None when any line needs a closer look."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    if not data or not (_is_regularly_quoted(data, columns) if b'"' in data else is_regular(data, columns, b",")):
        return None
    options = csv.ParseOptions(
        delimiter=",", quote_char='"', double_quote=True, escape_char=False, newlines_in_values=False
    )
    return parsed(data, columns, keys, options)


def fields_at_commas(line: bytes, columns: int, keys: int) -> list[str] | str:
    """Return the fields of one comma-separated line, or in a few words why there are none."""
    unreadable = why_unreadable(line)
    if unreadable:
        return unreadable
    text = line.decode("utf-8")
    if _SPACED_LINE.fullmatch(text) is None:
        return "a quote is not closed on its line, or stands inside a field without quotes"
    try:
        # A carriage return inside a line would begin a second row.
        rows = list(plain_csv.reader([text], skipinitialspace=True))
    except plain_csv.Error as error:
        return f"not comma-separated ({error})"
    return checked_fields(rows[0], columns, keys) if len(rows) == 1 else "a line end inside the line"


def other_separator(line: bytes, columns: int, given: str) -> str:
    """Return the name of the separator that a line seems to have instead of its own; nothing where none seems to fit.

    Args:
        line: one line that has not a single separator of its own kind.
        columns: how many fields it should have.
        given: its own separator.
    """
    for separator, name in (("\t", "tab"), (",", "comma"), (";", "semicolon")):
        if separator != given and line.count(separator.encode()) >= columns - 1:
            quoted = separator == "," and not isinstance(fields_at_commas(line, columns, columns), str)
            if quoted or line.count(separator.encode()) == columns - 1:
                return name
    return ""


def _is_regularly_quoted(data: bytes, columns: int) -> bool:
    """Tell whether every line has the right number of fields, and quotes only around whole fields or doubled inside."""
    if sum(1 for byte in (b"\0", b"\t", b"\r") if byte in data):
        return False
    line = re.compile(rb"^" + rb",".join([_FIELD] * columns) + rb"$", re.MULTILINE)
    return sum(1 for _ in line.finditer(data)) == num_lines(data)
