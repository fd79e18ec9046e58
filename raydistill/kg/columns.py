"""From the bytes of a tab-separated file to columns: all at once where every line is right, one by one where not."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from raydistill.errors import DataError

_BOM = b"\xef\xbb\xbf"


def read_bytes(path: Path) -> bytes:
    """Return the content of a plain or gzipped file, without a byte order mark.

    Raises:
        DataError: the file cannot be read, or is a damaged gzip file.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        packed = path.suffix == ".gz"
        raise DataError(
            f"{path}: {error}",
            expected="a whole gzip file" if packed else "a readable file",
            consequence="part of the graph would be missing",
            remedy="fetch the file again" if packed else "check the path and its permissions",
        ) from error
    while data.startswith(_BOM):
        data = data[len(_BOM) :]
    return data


def cut_columns(data: bytes, columns: int, keys: int) -> list[pa.Array] | None:
    """Cut well-formed content into columns; None when any line needs a closer look."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    if not data or not _is_regular(data, columns):
        return None
    names = [str(index) for index in range(columns)]
    parse: dict[str, Any] = {"quote_char": False, "double_quote": False, "escape_char": False}
    try:
        data.decode("utf-8")
        table = csv.read_csv(
            pa.BufferReader(data),
            read_options=csv.ReadOptions(column_names=names, block_size=1 << 24),
            parse_options=csv.ParseOptions(delimiter="\t", newlines_in_values=False, **parse),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string())),
        )
    except (UnicodeDecodeError, pa.ArrowInvalid):
        return None
    parts = [pc.utf8_trim(table.column(name), characters=" ").combine_chunks() for name in names]
    if table.num_rows != _num_lines(data) or any(pc.any(pc.equal(part, "")).as_py() for part in parts[:keys]):
        return None
    return parts


def _is_regular(data: bytes, columns: int) -> bool:
    values = np.frombuffer(data, dtype=np.uint8)
    is_tab = values == 0x09
    ends = np.flatnonzero(values == 0x0A)
    if np.count_nonzero(values < 0x20) != len(ends) + np.count_nonzero(is_tab):
        return False
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(values))
    before = np.searchsorted(np.flatnonzero(is_tab), ends)
    return bool(np.all(np.diff(before, prepend=0) == columns - 1))


def _num_lines(data: bytes) -> int:
    return data.count(b"\n") + (not data.endswith(b"\n"))


def fields_of(line: bytes, columns: int, keys: int) -> list[str] | str:
    """Return the fields of one line, or in a few words why there are none."""
    if b"\0" in line:
        return "NUL byte"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte 0x{line[error.start]:02x})"
    fields = [part.strip(" ") for part in text.split("\t")]
    if len(fields) != columns:
        return f"{len(fields)} column(s) instead of {columns}"
    for index, key in enumerate(fields[:keys], start=1):
        if not key:
            return f"column {index} is empty"
        if any(character < " " for character in key):
            return f"control character in column {index}"
    return fields
