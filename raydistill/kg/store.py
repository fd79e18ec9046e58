"""The dataset directory: one graph with its texts, as Parquet tables under a manifest that knows every byte.

    entities.parquet    key, name, description        row = entity id
    relations.parquet   key, phrase                   row = relation id
    triples/{train,valid,test}.parquet                head, relation, tail (int32)
    audit.json          what is odd about the graph (see audit.py)
    quarantine.tsv      only where malformed lines were set aside
    manifest.json       version, source, counts, SHA-256 and size of each file; written last

A directory is written aside and renamed, so one that carries its final name is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.errors import DataError
from raydistill.kg.manifest import MANIFEST, file_record, read_manifest
from raydistill.kg.triples import SPLITS, Split, check_ids

ENTITIES, RELATIONS, AUDIT, QUARANTINE = "entities.parquet", "relations.parquet", "audit.json", "quarantine.tsv"
TRIPLE_FILES: dict[Split, str] = {split: f"triples/{split}.parquet" for split in SPLITS}
CONTENT_FILES = (ENTITIES, RELATIONS, *TRIPLE_FILES.values())
REMEDY = "run `raydistill prepare` on the source again"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A knowledge graph with texts, as read from its directory.

    Attributes:
        path: the dataset directory.
        fingerprint: SHA-256 over the hashes of the tables; equal content gives an equal fingerprint, wherever and
            whenever it was prepared.
        entity_keys: the names the source uses for its entities, in id order.
        entity_names: what people call them.
        entity_descriptions: empty string where there is none.
        relation_keys: the names the source uses for its relations, in id order.
        relation_phrases: the relations in words.
        train: `(n, 3)` int32, columns head, relation, tail.
        valid: as train.
        test: as train.
    """

    path: Path
    fingerprint: str
    entity_keys: list[str] = field(repr=False)
    entity_names: list[str] = field(repr=False)
    entity_descriptions: list[str] = field(repr=False)
    relation_keys: list[str] = field(repr=False)
    relation_phrases: list[str] = field(repr=False)
    train: npt.NDArray[np.int32] = field(repr=False)
    valid: npt.NDArray[np.int32] = field(repr=False)
    test: npt.NDArray[np.int32] = field(repr=False)

    @property
    def num_entities(self) -> int:
        """Number of entities."""
        return len(self.entity_keys)

    @property
    def num_relations(self) -> int:
        """Number of relations, without inverses."""
        return len(self.relation_keys)

    def split(self, name: str) -> npt.NDArray[np.int32]:
        """Return the triples of one split, `(n, 3)`.

        Raises:
            DataError: there is no split of that name.
        """
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        if name not in parts:
            raise DataError(f"split {name!r}", expected=f"one of {', '.join(SPLITS)}", remedy="use one of these names")
        return parts[name]

    def recorded_counts(self) -> dict[str, int]:
        """Return the numbers of the manifest (see `count_of`), for what may not look at a split."""
        counts: dict[str, int] = read_manifest(self.path)["counts"]
        return counts

    def audit(self) -> dict[str, Any]:
        """Read the audit that was written when the dataset was prepared."""
        try:
            report: dict[str, Any] = json.loads((self.path / AUDIT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path / AUDIT}: {error}", expected="a readable audit", remedy=REMEDY) from error
        return report

    @classmethod
    def load(cls, path: str | Path, verify: bool = True) -> Dataset:
        """Read a dataset directory.

        Args:
            path: the directory.
            verify: hash every file and compare with the manifest (about 0.7 GB per second).

        Raises:
            DataError: no dataset there, a file is missing or damaged, or the tables contradict each other.
        """
        root = Path(path)
        manifest = read_manifest(root)
        _check_listed(root, manifest["files"])
        if verify:
            verify_files(root, manifest["files"])
        entities = _read_strings(root / ENTITIES, ("key", "name", "description"))
        relations = _read_strings(root / RELATIONS, ("key", "phrase"))
        parts = [_read_triples(root / TRIPLE_FILES[split]) for split in SPLITS]
        for part in parts:
            check_ids(part, len(entities[0]), len(relations[0]))
        texts = (*entities, *relations)
        dataset = cls(root, manifest["fingerprint"], texts[0], texts[1], texts[2], texts[3], texts[4], *parts)
        if count_of(dataset) != manifest["counts"]:
            raise DataError(
                f"{root}: {count_of(dataset)}",
                expected=f"{manifest['counts']} as the manifest says",
                consequence="results would be of another graph",
                remedy=REMEDY,
            )
        return dataset


def count_of(dataset: Dataset) -> dict[str, int]:
    """Return the five numbers a graph is known by."""
    sizes: dict[str, int] = {split: len(dataset.split(split)) for split in SPLITS}
    return {"entities": dataset.num_entities, "relations": dataset.num_relations, **sizes}


def verify_files(root: Path, files: Mapping[str, Any]) -> None:
    """Compare every file with its record.

    Raises:
        DataError: naming the first file that differs.
    """
    for name, recorded in files.items():
        found = file_record(root / name)
        if found != recorded:
            raise DataError(
                f"{root / name}: {found['bytes']} bytes with SHA-256 {found['sha256'][:12]}...",
                expected=f"{recorded['bytes']} bytes with SHA-256 {recorded['sha256'][:12]}...",
                consequence="a damaged graph would be learnt without a sign",
                remedy=REMEDY,
            )


def _check_listed(root: Path, files: Mapping[str, Any]) -> None:
    needed, allowed = {*CONTENT_FILES, AUDIT}, {*CONTENT_FILES, AUDIT, QUARANTINE}
    if not needed <= set(files) <= allowed:
        raise DataError(
            f"{root / MANIFEST} lists {', '.join(sorted(files)) or 'nothing'}",
            expected=", ".join(sorted(needed)),
            consequence="parts of the dataset would go unchecked",
            remedy=REMEDY,
        )


def _read_table(path: Path, columns: tuple[str, ...]) -> pa.Table:
    try:
        table = pq.ParquetFile(path).read(columns=list(columns))
        table.validate(full=True)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{path}: {error}", expected=f"Parquet with {', '.join(columns)}", remedy=REMEDY) from error
    return table


def _read_strings(path: Path, columns: tuple[str, ...]) -> tuple[list[str], ...]:
    table = _read_table(path, columns)
    if table.column_names != list(columns) or any(column.null_count for column in table.columns):
        raise DataError(f"{path}: columns {table.column_names}", expected=f"{columns}, none empty", remedy=REMEDY)
    return tuple(table.column(name).to_pylist() for name in columns)


def _read_triples(path: Path) -> npt.NDArray[np.int32]:
    columns = ("head", "relation", "tail")
    table = _read_table(path, columns)
    kinds = [column.type for column in table.columns]
    if kinds != [pa.int32()] * 3 or any(column.null_count for column in table.columns):
        raise DataError(f"{path}: columns of types {kinds}", expected="three int32 columns", remedy=REMEDY)
    return np.column_stack([table.column(name).to_numpy() for name in columns]).astype(np.int32, copy=False)
