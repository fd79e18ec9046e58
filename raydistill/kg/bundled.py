"""Graphs that PyKEEN knows by name, as `pykeen:umls`: some lie inside its package, a download of others is announced."""

from __future__ import annotations

import difflib
import importlib
import logging
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa

from raydistill.errors import DataError
from raydistill.kg.graph import Graph, Texts, assemble
from raydistill.kg.triples import SPLITS, Split

logger = logging.getLogger(__name__)

PREFIX = "pykeen:"
_PARTS: dict[Split, str] = {"train": "training", "valid": "validation", "test": "testing"}


def read_pykeen(name: str) -> Graph:
    """Read a graph through PyKEEN.

    Args:
        name: PyKEEN's name of the graph, without the prefix.

    Raises:
        DataError: PyKEEN is not installed, does not know the name, or cannot fetch the graph.
    """
    kind = _look_up(name)
    notes = ["The source has no texts: names and phrases are made from keys, which tells a text model little."]
    try:
        dataset = kind()
        if not _is_local(dataset):
            logger.warning("PyKEEN may now download %s; it does not lie inside its package", name)
            notes.append(f"{name} was fetched by PyKEEN, which leaves out triples of entities unseen in training.")
        splits = {split: _labels(getattr(dataset, _PARTS[split])) for split in SPLITS}
    except (OSError, EOFError, ValueError, RuntimeError, LookupError, AttributeError, ImportError) as error:
        raise _unreadable(name, error) from error
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error) as error:
        raise _unreadable(name, error) from error
    return assemble(f"{PREFIX}{name}", splits, Texts({}, {}, {}, notes=tuple(notes)))


def _look_up(name: str) -> Any:
    try:
        resolver = importlib.import_module("pykeen.datasets").dataset_resolver
    except ImportError as error:
        raise DataError(
            f"{PREFIX}{name}: PyKEEN is not installed ({error})",
            expected="the package pykeen",
            remedy="pip install pykeen, or give a folder with the triples",
        ) from error
    known = sorted(resolver.lookup_dict)
    plain = resolver.normalize(name)
    if plain in resolver.lookup_dict:
        return resolver.lookup_dict[plain]
    close = difflib.get_close_matches(plain, known, n=5, cutoff=0.5)
    raise DataError(
        f"{PREFIX}{name}: PyKEEN knows no graph of that name",
        expected=f"one like {', '.join(close)}" if close else f"one of {', '.join(known)}",
        remedy="check the spelling",
    )


def _is_local(dataset: Any) -> bool:
    paths = [getattr(dataset, f"{part}_path", None) for part in _PARTS.values()]
    return all(path is not None and Path(path).is_file() for path in paths)


def _labels(factory: Any) -> list[pa.Array]:
    ids = factory.mapped_triples.numpy()
    tables = (factory.entity_id_to_label, factory.relation_id_to_label, factory.entity_id_to_label)
    columns = []
    for column, table in enumerate(tables):
        labels = pa.array([str(table[index]) for index in range(max(table) + 1)], type=pa.large_string())
        columns.append(labels.take(pa.array(ids[:, column])))
    return columns


def _unreadable(name: str, error: BaseException) -> DataError:
    return DataError(
        f"{PREFIX}{name}: {type(error).__name__}: {error}",
        expected="a graph inside the package, in PyKEEN's cache, or within reach of the network",
        consequence="there would be no graph",
        remedy="check the network, or fetch the files by other means and give their folder",
    )
