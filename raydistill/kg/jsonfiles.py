"""What SimKGC's preprocessing writes: `train.txt.json`, `valid.txt.json`, `test.txt.json`, `entities.json`, `relations.json`.

A triple is `{"head_id", "head", "relation", "tail_id", "tail"}` with the phrase of its relation in place of the key;
`relations.json` tells which key a phrase belongs to, and a phrase it lacks, or has for two keys, is its own key. An
entity is `{"entity_id", "entity", "entity_desc"}`. All of them are lists, which are read piece by piece: those of
Wikidata5M have 20 million triples.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydistill.kg.folders import find_file
from raydistill.kg.graph import Graph, Texts, assemble
from raydistill.kg.jsonlists import items_of
from raydistill.kg.lines import Intake, Rows
from raydistill.kg.splits import columns_of
from raydistill.kg.text import clean_text
from raydistill.kg.textfiles import name_of_sense, read_phrases, without_quotes
from raydistill.kg.triples import Split

ENTITIES_JSON = "entities.json"
_BATCH = 1 << 17
_HALF = re.compile("[\ud800-\udfff]")
_SENSE = re.compile(r".+_(NN|VB|JJ|RB)_[0-9]+")


def read_simkgc_json(folder: Path, files: Mapping[Split, Path], intake: Intake) -> Graph:
    """Read the lists of SimKGC's preprocessing."""
    known = read_phrases(intake, folder)
    counts = Counter(known.values())
    key_of = {phrase: key for key, phrase in known.items() if counts[phrase] == 1}
    splits = columns_of({split: _read_triples(intake, path, key_of) for split, path in files.items()})
    names, descriptions = _read_entities(intake, folder)
    phrases = {key: phrase for phrase, key in key_of.items()}
    # A relation that is not in relations.json is called by its phrase, which needs no making from a key.
    for _, relations, _ in splits.values():
        for relation in relations.unique().to_pylist():
            phrases.setdefault(relation, clean_text(relation))
    return assemble("simkgc-json", splits, Texts(names, descriptions, phrases, list(names)))


def _read_triples(intake: Intake, path: Path, key_of: Mapping[str, str]) -> Rows:
    loaded: list[list[str]] = []
    numbers: list[int] = []
    columns: list[list[pa.Array]] = [[], [], []]
    lines: list[npt.NDArray[np.int64]] = []

    def put_away() -> None:
        for column, parts in enumerate(columns):
            parts.append(pa.array([fields[column] for fields in loaded], type=pa.large_string()))
        lines.append(np.array(numbers, dtype=np.int64))
        loaded.clear()
        numbers.clear()

    for line, fields, _ in _accepted(intake, path, ("head_id", "relation", "tail_id"), keys=3):
        fields[1] = key_of.get(clean_text(fields[1]), fields[1])
        loaded.append(fields)
        numbers.append(line)
        if len(loaded) == _BATCH:
            put_away()
    put_away()
    return Rows(path, [pa.concat_arrays(parts) for parts in columns], np.concatenate(lines))


def _read_entities(intake: Intake, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    path = find_file(folder, ENTITIES_JSON)
    names: dict[str, str] = {}
    descriptions: dict[str, str] = {}
    if path is None:
        return names, descriptions
    for line, fields, item in _accepted(intake, path, ("entity_id", "entity", "entity_desc"), keys=1):
        key, name, description = fields[0], clean_text(fields[1]), clean_text(fields[2])
        # WordNet's senses lost their leading underscores alone; Freebase's literals may have lost their closing quote.
        name = name_of_sense(name) if _SENSE.fullmatch(name) else name
        description = _literal(description) if key.startswith("/m/") else description
        if names.setdefault(key, name) != name or descriptions.setdefault(key, description) != description:
            intake.reject(path, line, "key was listed before with another text", _raw(item))
    return names, descriptions


def _accepted(
    intake: Intake, path: Path, wanted: tuple[str, ...], keys: int
) -> Iterator[tuple[int, list[str], object]]:
    """Line, values and whole of each object that has them; what has not is set aside."""
    tally = intake.tally[path.name] = {"lines": 0, "blank": 0, "malformed": 0}
    for line, item in items_of(path):
        tally["lines"] += 1
        fields = _fields(item, wanted, keys)
        if isinstance(fields, str):
            intake.reject(path, line, fields, _raw(item))
        else:
            yield line, fields, item


def _fields(item: object, wanted: tuple[str, ...], keys: int) -> list[str] | str:
    """Return values of a JSON object, those that are no keys empty where they are null; or in a few words why there are none."""
    if not isinstance(item, dict):
        return "no JSON object"
    fields = []
    for index, name in enumerate(wanted):
        value = item.get(name)
        if value is None and index >= keys:
            value = ""
        if not isinstance(value, str):
            return f"{name} is no text" if name in item and value is not None else f"no {name}"
        if not value.isascii() and _HALF.search(value):
            return f"{name} holds half of a character"
        if index < keys:
            value = value.strip(" ")
            if not value:
                return f"{name} is empty"
            if any(character < " " for character in value):
                return f"control character in {name}"
        fields.append(value)
    return fields


def _literal(text: str) -> str:
    whole = without_quotes(text)
    return without_quotes(f'{text}"') if whole == text and text.startswith('"') else whole


def _raw(item: object) -> bytes:
    return json.dumps(item, ensure_ascii=True).encode()
