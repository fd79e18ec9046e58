"""Parquet sources: triples in columns head, relation and tail; texts in `entities.parquet` and `relations.parquet`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from raydistill.kg.graph import Graph, Texts, assemble
from raydistill.kg.lines import Intake
from raydistill.kg.splits import keys_of, read_splits
from raydistill.kg.tablerows import rows_of_table
from raydistill.kg.textfiles import texts_of
from raydistill.kg.triples import Split

ENTITY_TABLE, RELATION_TABLE = "entities.parquet", "relations.parquet"


def read_parquet(folder: Path, files: Mapping[Split, Path], intake: Intake) -> Graph:
    """Read a folder of Parquet tables."""
    splits = read_splits(files, intake)
    entities = _read_texts(intake, folder / ENTITY_TABLE, ("key", "name", "description"), keys_of(splits, 0, 2))
    relations = _read_texts(intake, folder / RELATION_TABLE, ("key", "phrase"), keys_of(splits, 1))
    names = {key: name for key, (name, _) in entities.items()}
    descriptions = {key: description for key, (_, description) in entities.items()}
    phrases = {key: phrase for key, (phrase,) in relations.items()}
    return assemble("parquet", splits, Texts(names, descriptions, phrases, list(names)))


def _read_texts(
    intake: Intake, path: Path, columns: tuple[str, ...], known: Sequence[pa.Array]
) -> dict[str, tuple[str, ...]]:
    return texts_of(intake, rows_of_table(intake, path, columns, keys=1), known) if path.exists() else {}
