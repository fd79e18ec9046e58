"""From the bytes of a text file to columns: all at once where every line is right, one by one where not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from raydistill.errors import DataError

_BOM = b"\xef\xbb\xbf"
_BLOCK_BYTES = 1 << 24


def plain_name(path: Path) -> str:
    """Return the name of a file without the .gz that says it is packed."""
    return path.name.removesuffix(".gz")


def read_bytes(path: Path) -> bytes:
    """Return the content of a plain or gzipped file, without a byte order mark.

    Raises:
        DataError: the file cannot be read, or is a damaged gzip file.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    return _without_mark(data)


def chunks_of(path: Path, chunk_bytes: int) -> Iterator[bytes]:
    """Return the content of a plain or gzipped file a piece at a time, without a byte order mark.

    Raises:
        DataError: the file cannot be read, or is a damaged gzip file.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            is_start = True
            while chunk := stream.read(chunk_bytes):
                yield _without_mark(chunk) if is_start else chunk
                is_start = False
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error


def blocks_of(path: Path, block_bytes: int = _BLOCK_BYTES) -> Iterator[bytes]:
    """Return the content of a plain or gzipped file in blocks of whole lines, for files that should never lie in memory at once.

    Args:
        path: the file.
        block_bytes: about this much at a time; more where a single line is longer.

    Raises:
        DataError: the file cannot be read, or is a damaged gzip file.
    """
    begun: list[bytes] = []
    for chunk in chunks_of(path, block_bytes):
        end = chunk.rfind(b"\n") + 1
        if end:
            yield b"".join((*begun, chunk[:end]))
            begun = []
        begun.append(chunk[end:])
    if any(begun):
        yield b"".join(begun)


def cut_columns(data: bytes, columns: int, keys: int) -> list[pa.Array] | None:
    """Cut well-formed content into columns at tabs; None when any line needs a closer look."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    if not data or not is_regular(data, columns):
        return None
    options = csv.ParseOptions(delimiter="\t", quote_char=False, double_quote=False, escape_char=False)
    return parsed(data, columns, keys, options)


def is_regular(data: bytes, columns: int, separator: bytes = b"\t") -> bool:
    """Tell whether every line has the right number of separators, and no other control character."""
    values = np.frombuffer(data, dtype=np.uint8)
    is_separator = values == separator[0]
    ends = np.flatnonzero(values == 0x0A)
    num_controls = len(ends) + (np.count_nonzero(is_separator) if separator[0] < 0x20 else 0)
    if np.count_nonzero(values < 0x20) != num_controls:
        return False
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(values))
    before = np.searchsorted(np.flatnonzero(is_separator), ends)
    return bool(np.all(np.diff(before, prepend=0) == columns - 1))


def parsed(data: bytes, columns: int, keys: int, parse_options: csv.ParseOptions) -> list[pa.Array] | None:
    """Cut content whose lines are known to be regular; None where it is not UTF-8, or a key is empty."""
    names = [str(index) for index in range(columns)]
    try:
        data.decode("utf-8")
        table = csv.read_csv(
            pa.BufferReader(data),
            read_options=csv.ReadOptions(column_names=names, block_size=_BLOCK_BYTES),
            parse_options=parse_options,
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string())),
        )
    except (UnicodeDecodeError, pa.ArrowInvalid):
        return None
    parts = [pc.utf8_trim(table.column(name), characters=" ").combine_chunks() for name in names]
    if table.num_rows != num_lines(data) or any(pc.any(pc.equal(part, "")).as_py() for part in parts[:keys]):
        return None
    return parts


def num_lines(data: bytes) -> int:
    """Return how many lines some content has, whether or not the last one is ended."""
    return data.count(b"\n") + (not data.endswith(b"\n"))


def fields_of(line: bytes, columns: int, keys: int) -> list[str] | str:
    """Return the fields of one line that is separated by tabs, or in a few words why there are none."""
    unreadable = why_unreadable(line)
    return unreadable or checked_fields(line.decode("utf-8").split("\t"), columns, keys)


def why_unreadable(line: bytes) -> str:
    """Return in a few words why a line is no text; nothing where it is."""
    if b"\0" in line:
        return "NUL byte"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte 0x{line[error.start]:02x})"
    return ""


def checked_fields(given: list[str], columns: int, keys: int) -> list[str] | str:
    """Return the fields of a line without spaces around them, or in a few words what is wrong with them."""
    fields = [part.strip(" ") for part in given]
    if len(fields) != columns:
        return f"{len(fields)} column(s) instead of {columns}"
    for index, key in enumerate(fields[:keys], start=1):
        if not key:
            return f"column {index} is empty"
        if any(character < " " for character in key):
            return f"control character in column {index}"
    return fields


def _without_mark(data: bytes) -> bytes:
    while data.startswith(_BOM):
        data = data[len(_BOM) :]
    return data


def _unreadable(path: Path, error: BaseException) -> DataError:
    packed = path.suffix == ".gz"
    return DataError(
        f"{path}: {error}",
        expected="a whole gzip file" if packed else "a readable file",
        consequence="part of the graph would be missing",
        remedy="fetch the file again" if packed else "check the path and its permissions",
    )
