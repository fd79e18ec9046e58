"""Parquet tables as rows of strings, found by the names of their columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydistill.errors import DataError
from raydistill.kg.lines import Intake, Rows

TRIPLE_COLUMNS = ("head", "relation", "tail")
_CONTROL = r"[\x00-\x1f]"


def rows_of_table(intake: Intake, path: Path, columns: tuple[str, ...], keys: int) -> Rows:
    """Read columns of a Parquet table as strings; a row whose key is empty or holds a control character is remembered as malformed.

    Args:
        intake: remembers malformed rows.
        path: the table.
        columns: names; those after the second and after the keys may be missing, and are then empty.
        keys: the first so many columns hold keys.

    Raises:
        DataError: it is no such table.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            missing = [name for name in columns[: max(keys, 2)] if name not in names]
            if missing:
                raise DataError(
                    f"{path}: columns {', '.join(names)}",
                    expected=", ".join(columns),
                    remedy=f"add or rename {', '.join(missing)}",
                )
            table = file.read(columns=[name for name in columns if name in names])
        parts = [
            _strings(table.column(name), is_key=index < keys) if name in names else _empty(table.num_rows)
            for index, name in enumerate(columns)
        ]
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: {error}",
            expected=f"a Parquet table with the string columns {', '.join(columns)}",
            consequence="part of the graph would be missing",
            remedy="write the table again",
        ) from error
    rows = Rows(path, parts, np.arange(1, table.num_rows + 1, dtype=np.int64))
    intake.tally[path.name] = {"lines": len(rows), "blank": 0, "malformed": 0}
    is_empty, has_control = np.zeros((2, len(rows)), dtype=np.bool_)
    for part in parts[:keys]:
        is_empty |= _mask(pc.equal(part, ""))
        has_control |= _mask(pc.match_substring_regex(part, _CONTROL))
    good = ~(is_empty | has_control)
    reasons = ["a key is empty" if is_empty[row] else "control character in a key" for row in np.flatnonzero(~good)]
    return intake.keep(rows, good, reasons)


def _strings(column: pa.ChunkedArray, *, is_key: bool) -> pa.Array:
    """Return strings without spaces around them; of a key nothing else is cut off, as in files of lines."""
    text = pc.fill_null(column.cast(pa.string()).cast(pa.large_string()), "")
    trimmed = pc.utf8_trim(text, characters=" ") if is_key else pc.utf8_trim_whitespace(text)
    return trimmed.combine_chunks()


def _empty(num_rows: int) -> pa.Array:
    return pa.repeat(pa.scalar("", type=pa.large_string()), num_rows)


def _mask(answers: pa.Array) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = answers.to_numpy(zero_copy_only=False)
    return mask
