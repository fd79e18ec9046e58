"""The triple files of a source, whatever their kind, with headers set aside; a split without a file has no triple."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from raydistill.kg.columns import plain_name
from raydistill.kg.headers import set_headers_aside
from raydistill.kg.lines import Intake, Rows
from raydistill.kg.tablerows import TRIPLE_COLUMNS, rows_of_table
from raydistill.kg.triples import SPLITS, Split


def read_splits(files: Mapping[Split, Path], intake: Intake) -> dict[Split, list[pa.Array]]:
    """Read the triple files of a source.

    Args:
        files: the file of each split that has one: tables where the name ends in .parquet, otherwise lines, separated
            by commas where it ends in .csv and by tabs elsewhere.
        intake: remembers malformed lines, and headers.

    Returns:
        Heads, relations and tails of each split, empty where it has no file.
    """
    rows = {split: _read(path, intake) for split, path in files.items()}
    return columns_of(set_headers_aside(intake, rows))


def columns_of(rows: Mapping[Split, Rows]) -> dict[Split, list[pa.Array]]:
    """Return the columns of each split, empty ones where a split has no rows."""
    empty = pa.array([], type=pa.large_string())
    return {split: rows[split].columns if split in rows else [empty] * 3 for split in SPLITS}


def keys_of(splits: Mapping[Split, list[pa.Array]], *columns: int) -> list[pa.Array]:
    """Return some columns of all splits: 0 and 2 hold the entities of triples, 1 their relations."""
    return [splits[split][column] for split in SPLITS for column in columns]


def _read(path: Path, intake: Intake) -> Rows:
    if plain_name(path).endswith(".parquet"):
        return rows_of_table(intake, path, TRIPLE_COLUMNS, keys=3)
    return intake.read(path, columns=3, keys=3)
