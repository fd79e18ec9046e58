"""Writing a dataset directory: aside, synced, then renamed, so that what carries the final name is whole."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.errors import DataError
from raydistill.kg.graph import Graph
from raydistill.kg.lines import Intake, escape
from raydistill.kg.manifest import MANIFEST, file_record, read_manifest, write_manifest
from raydistill.kg.store import (
    AUDIT,
    CONTENT_FILES,
    ENTITIES,
    QUARANTINE,
    RELATIONS,
    TRIPLE_FILES,
    Dataset,
    count_of,
    verify_files,
)

logger = logging.getLogger(__name__)


def write_dataset(
    target: Path,
    graph: Graph,
    *,
    audit: Mapping[str, Any],
    intake: Intake,
    origin: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write a dataset directory aside and give it its name once it is whole.

    Args:
        target: the directory; it may exist if it is empty or holds the same content.
        graph: what to write.
        audit: what is odd about it.
        intake: the malformed lines that were set aside.
        origin: where it came from, for the manifest.
        overwrite: replace another dataset directory.

    Raises:
        DataError: the target holds something else.
        OSError: nothing can be written there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        triples = graph.triples
        dataset = Dataset(
            target,
            "",
            graph.entity_keys,
            graph.entity_names,
            graph.entity_descriptions,
            graph.relation_keys,
            graph.relation_phrases,
            triples["train"],
            triples["valid"],
            triples["test"],
        )
        _write_tables(aside, dataset)
        (aside / AUDIT).write_text(json.dumps(audit, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if intake.malformed:
            _write_quarantine(aside / QUARANTINE, intake)
        _write_manifest(aside, dataset, origin)
        _sync(aside)
        _put_in_place(aside, target, overwrite)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_tables(root: Path, dataset: Dataset) -> None:
    """Write the tables of a dataset into a directory that nobody else looks at yet."""
    entity_columns = (dataset.entity_keys, dataset.entity_names, dataset.entity_descriptions)
    _write_strings(root / ENTITIES, dict(zip(("key", "name", "description"), entity_columns, strict=True)))
    _write_strings(root / RELATIONS, {"key": dataset.relation_keys, "phrase": dataset.relation_phrases})
    (root / "triples").mkdir()
    for split, name in TRIPLE_FILES.items():
        triples = dataset.split(split)
        columns = {column: triples[:, index] for index, column in enumerate(("head", "relation", "tail"))}
        pq.write_table(pa.table(columns), root / name, compression="zstd")


def _write_manifest(root: Path, dataset: Dataset, source: Mapping[str, Any]) -> str:
    """Hash what lies in the directory, write the manifest last and return the fingerprint."""
    names = [*CONTENT_FILES, AUDIT, *([QUARANTINE] if (root / QUARANTINE).exists() else [])]
    files = {name: file_record(root / name) for name in names}
    return write_manifest(root, source=source, counts=count_of(dataset), files=files, content=CONTENT_FILES)


def _write_strings(path: Path, columns: Mapping[str, list[str]]) -> None:
    table = pa.table({name: pa.array(values, type=pa.large_string()) for name, values in columns.items()})
    pq.write_table(table, path, compression="zstd")


def _put_in_place(aside: Path, target: Path, overwrite: bool) -> None:
    if _is_empty(target):
        os.chmod(aside, 0o777 & ~_umask())
        os.replace(aside, target)
    elif _same_content(aside, target):
        logger.info("%s holds this dataset already", target)
    elif not overwrite:
        raise DataError(
            f"{target} exists and holds something else",
            expected="a new or empty directory, or the same dataset",
            consequence="what lies there would be lost",
            remedy="give another directory, or add --overwrite (in Python, overwrite=True) to replace it",
        )
    elif not (target / MANIFEST).is_file() or not (target / "triples").is_dir():
        raise DataError(
            f"{target} is no dataset directory",
            expected="a dataset directory to overwrite",
            consequence="files that prepare never wrote would be deleted",
            remedy="give another directory, or empty this one yourself",
        )
    else:
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.replaced-", dir=target.parent))
        os.chmod(aside, 0o777 & ~_umask())
        os.replace(target, old)
        try:
            os.replace(aside, target)
        except OSError:
            os.replace(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _same_content(aside: Path, target: Path) -> bool:
    """Tell whether a whole dataset of the same tables and the same quarantine lies at the target."""
    try:
        there, here = read_manifest(target), read_manifest(aside)
        verify_files(target, there["files"])
    except DataError:
        return False
    set_aside = [manifest["files"].get(QUARANTINE) for manifest in (there, here)]
    return bool(there["fingerprint"] == here["fingerprint"] and set_aside[0] == set_aside[1])


def _write_quarantine(path: Path, intake: Intake) -> None:
    rows = [f"{bad.file}\t{bad.line}\t{bad.reason}\t{escape(bad.raw)}\n" for bad in intake.malformed]
    path.write_text("file\tline\treason\traw\n" + "".join(rows), encoding="utf-8", newline="")


def _is_empty(target: Path) -> bool:
    if target.is_dir() and not target.is_symlink():
        return not any(target.iterdir())
    return not target.exists() and not target.is_symlink()


def _sync(root: Path) -> None:
    """Push every file and directory to the disk, so that a power cut after the rename finds them whole."""
    for path in (*root.rglob("*"), root):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
