"""Layouts of numbers, with keys in other files: OpenKE (`train2id.txt`, h t r) and LibKGE (`train.del`, h r t).

Texts may lie beside them: KG-BERT's `entity2text.txt` and its kin for OpenKE, `entity_strings.del` and
`relation_strings.del` for LibKGE.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raydistill.errors import DataError
from raydistill.kg.columns import read_bytes
from raydistill.kg.folders import find_file, need_file
from raydistill.kg.graph import Graph, Texts, assemble
from raydistill.kg.lines import Intake, Rows
from raydistill.kg.splits import columns_of
from raydistill.kg.textfiles import kg_bert_texts, read_texts
from raydistill.kg.triples import Split


@dataclass(frozen=True, eq=False)
class Keys:
    """The keys behind numbers.

    Attributes:
        keys: `(n,)` strings; null where no line gives that number a key.
        known: `(n,)`, True = the number has a key.
    """

    keys: pa.Array
    known: npt.NDArray[np.bool_]

    def listed(self) -> list[str]:
        """Return the keys in the order of their numbers."""
        values: list[str] = self.keys.drop_null().to_pylist()
        return values


def read_openke(folder: Path, files: Mapping[Split, Path], intake: Intake) -> Graph:
    """Read OpenKE's files, each with the number of its rows on line 1."""
    entities = _read_keys(intake, need_file(folder, "entity2id.txt"), id_column=1, header_lines=1)
    relations = _read_keys(intake, need_file(folder, "relation2id.txt"), id_column=1, header_lines=1)
    splits: dict[Split, Rows] = {}
    for split, path in files.items():
        rows = _resolve(intake, _read_counted(intake, path, columns=3), (entities, entities, relations))
        heads, tails, names = rows.columns
        splits[split] = Rows(rows.path, [heads, names, tails], rows.lines)
    texts = kg_bert_texts(folder, intake, [entities.keys], [relations.keys])
    listed = Texts(texts.names, texts.descriptions, texts.phrases, entities.listed(), texts.notes)
    return assemble("openke", columns_of(splits), listed)


def read_libkge(folder: Path, files: Mapping[Split, Path], intake: Intake) -> Graph:
    """Read LibKGE's files: numbers in `.del` files, without headers."""
    entities = _read_keys(intake, need_file(folder, "entity_ids.del"), id_column=0)
    relations = _read_keys(intake, need_file(folder, "relation_ids.del"), id_column=0)
    splits = {
        split: _resolve(intake, intake.read(path, columns=3, keys=3), (entities, relations, entities))
        for split, path in files.items()
    }
    names, unknown_names = _read_strings(intake, folder, "entity_strings.del", entities)
    phrases, unknown_phrases = _read_strings(intake, folder, "relation_strings.del", relations)
    notes = (*unknown_names, *unknown_phrases)
    return assemble("libkge", columns_of(splits), Texts(names, {}, phrases, entities.listed(), notes))


def _read_counted(intake: Intake, path: Path, columns: int) -> Rows:
    first = read_bytes(path).partition(b"\n")[0].strip()
    rows = intake.read(path, columns=columns, keys=columns, header_lines=1, may_use_spaces=True)
    tally = intake.tally[path.name]
    found = tally["lines"] - tally["blank"]
    if not first.isdigit() or int(first[:18]) != found:
        raise DataError(
            f"{path}: line 1 says {first[:40].decode(errors='backslashreplace')!r}, {found} rows follow",
            expected="the number of rows that follow",
            consequence="a file that was cut short would pass for a whole one",
            remedy="fetch the file again, or mend line 1",
        )
    return rows


def _read_keys(intake: Intake, path: Path, *, id_column: int, header_lines: int = 0) -> Keys:
    rows = _read_counted(intake, path, columns=2) if header_lines else intake.read(path, columns=2, keys=2)
    numbers = _numbers(rows.columns[id_column])
    keys = rows.strings(1 - id_column)
    first_number, first_key = _is_first(numbers.tolist()), _is_first(keys)
    in_range = (numbers >= 0) & (numbers < len(rows))
    good = in_range & first_number & first_key
    reasons = [
        "id is no number from 0 up" if not in_range[row] else "id or key was listed before"
        for row in np.flatnonzero(~good).tolist()
    ]
    intake.keep(rows, good, reasons)
    table: list[str | None] = [None] * len(rows)
    for row in np.flatnonzero(good).tolist():
        table[numbers[row]] = keys[row]
    return Keys(pa.array(table, type=pa.large_string()), np.array([key is not None for key in table], dtype=np.bool_))


def _resolve(intake: Intake, rows: Rows, tables: tuple[Keys, Keys, Keys]) -> Rows:
    columns = [_numbers(column) for column in rows.columns]
    good = np.ones(len(rows), dtype=np.bool_)
    for numbers, table in zip(columns, tables, strict=True):
        good &= _is_known(numbers, table)
    reasons = ["unknown id"] * int(np.count_nonzero(~good))
    kept = intake.keep(rows, good, reasons)
    keys = [table.keys.take(pa.array(numbers[good])) for numbers, table in zip(columns, tables, strict=True)]
    return Rows(kept.path, keys, kept.lines)


def _is_known(numbers: npt.NDArray[np.int64], table: Keys) -> npt.NDArray[np.bool_]:
    inside = (numbers >= 0) & (numbers < len(table.known))
    if not len(table.known):
        return inside
    known: npt.NDArray[np.bool_] = inside & table.known[np.where(inside, numbers, 0)]
    return known


def _read_strings(intake: Intake, folder: Path, name: str, table: Keys) -> tuple[dict[str, str], list[str]]:
    """Read names that are given by key or, as in some datasets, by number; and a note on those of nothing listed."""
    path = find_file(folder, name)
    if path is None:
        return {}, []
    texts = read_texts(intake, path, [table.keys])
    key_of = {key: key for key in table.listed()}
    if key_of.keys().isdisjoint(texts):
        key_of = {str(number): key for number, key in enumerate(table.keys.to_pylist()) if key is not None}
    known = {key_of[given]: text for given, text in texts.items() if given in key_of}
    unknown = len(texts) - len(known)
    return known, [f"{unknown} texts of {path.name} for keys that are not listed were left out."] if unknown else []


def _numbers(column: pa.Array) -> npt.NDArray[np.int64]:
    """Return the numbers in a column of strings; -1 stands for what is not one."""
    is_number = pc.match_substring_regex(column, "^[0-9]{1,9}$")
    numbers: npt.NDArray[np.int64] = pc.if_else(is_number, column, "-1").cast(pa.int64()).to_numpy(zero_copy_only=False)
    return numbers


def _is_first(values: Sequence[Hashable]) -> npt.NDArray[np.bool_]:
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(value, row) == row for row, value in enumerate(values)], dtype=np.bool_)
