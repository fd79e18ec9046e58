"""Parquet sources: triples in columns head, relation and tail; texts in `entities.parquet` and `relations.parquet`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydistill.errors import DataError
from raydistill.kg.folders import split_files
from raydistill.kg.graph import Graph, Texts, assemble
from raydistill.kg.lines import Intake, Rows
from raydistill.kg.textfiles import texts_of
from raydistill.kg.triples import Split


def read_parquet(folder: Path, intake: Intake) -> Graph:
    """Read a folder of Parquet tables."""
    splits: dict[Split, list[pa.Array]] = {}
    for split, path in split_files(folder, (".parquet",)).items():
        splits[split] = _read(intake, path, ("head", "relation", "tail"), keys=3).columns
    entities = _read_texts(intake, folder / "entities.parquet", ("key", "name", "description"))
    relations = _read_texts(intake, folder / "relations.parquet", ("key", "phrase"))
    names = {key: name for key, (name, _) in entities.items()}
    descriptions = {key: description for key, (_, description) in entities.items()}
    phrases = {key: phrase for key, (phrase,) in relations.items()}
    return assemble("parquet", splits, Texts(names, descriptions, phrases, list(names)))


def _read_texts(intake: Intake, path: Path, columns: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return texts_of(intake, _read(intake, path, columns, keys=1)) if path.exists() else {}


def _read(intake: Intake, path: Path, columns: tuple[str, ...], keys: int) -> Rows:
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
