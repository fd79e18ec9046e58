"""Parquet tables as rows of strings, found by the names of their columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydistill.errors import DataError
from raydistill.kg.lines import Intake, Rows

TRIPLE_COLUMNS = ("head", "relation", "tail")


def rows_of_table(intake: Intake, path: Path, columns: tuple[str, ...], keys: int) -> Rows:
    """Read columns of a Parquet table as strings; a row with an empty key is remembered as malformed.

    Args:
        intake: remembers malformed rows.
        path: the table.
        columns: names; those after the second and after the keys may be missing, and are then empty.
        keys: the first so many columns hold keys.

    Raises:
        DataError: it is no such table.
    """
    try:
        table = pq.ParquetFile(path).read()
        missing = [name for name in columns[: max(keys, 2)] if name not in table.column_names]
        if missing:
            raise DataError(
                f"{path}: columns {', '.join(table.column_names)}",
                expected=", ".join(columns),
                remedy=f"add or rename {', '.join(missing)}",
            )
        empty = pa.array([""] * table.num_rows, type=pa.large_string())
        parts = [_strings(table.column(name)) if name in table.column_names else empty for name in columns]
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: {error}",
            expected=f"a Parquet table with the string columns {', '.join(columns)}",
            consequence="part of the graph would be missing",
            remedy="write the table again",
        ) from error
    rows = Rows(path, parts, np.arange(1, table.num_rows + 1, dtype=np.int64))
    intake.tally[path.name] = {"lines": len(rows), "blank": 0, "malformed": 0}
    good = np.ones(len(rows), dtype=np.bool_)
    for part in parts[:keys]:
        good &= pc.not_equal(part, "").to_numpy(zero_copy_only=False)
    return intake.keep(rows, good, ["a key is empty"] * int(np.count_nonzero(~good)))


def _strings(column: pa.ChunkedArray) -> pa.Array:
    text = pc.fill_null(column.cast(pa.string()).cast(pa.large_string()), "")
    return pc.utf8_trim_whitespace(text).combine_chunks()
