from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raydistill.errors import DataError
from raydistill.kg.manifest import read_manifest
from raydistill.kg.prepare import prepare
from raydistill.kg.store import Dataset

FILES = ["entities.parquet", "relations.parquet", "triples/train.parquet", "triples/valid.parquet"]
FILES += ["triples/test.parquet", "audit.json", "manifest.json"]


@pytest.fixture
def dataset(kg_bert_folder: Path, tmp_path: Path) -> Dataset:
    return prepare(kg_bert_folder, tmp_path / "out")


def test_round_trip_gives_back_texts_and_triples(dataset: Dataset) -> None:
    """A shifted row would give every entity its neighbour's text."""
    loaded = Dataset.load(dataset.path)
    assert loaded.entity_keys == ["ann", "bob", "carl", "dora", "rome", "oslo"]
    assert loaded.entity_names == ["Ann Lee", "Bob, Jr.", "Carl", "Dora", "Rome", "Oslo"]
    assert loaded.entity_descriptions == ["a painter", "He fishes.", "", "a baker", "a city", ""]
    assert (loaded.relation_keys, loaded.relation_phrases) == (["knows", "lives_in"], ["knows", "lives in"])
    assert loaded.train.tolist() == [[0, 0, 1], [1, 0, 2], [2, 1, 4], [0, 1, 4], [1, 1, 5]]
    assert loaded.valid.tolist() == [[2, 0, 0], [3, 1, 5]]
    assert loaded.test.tolist() == [[1, 0, 0], [3, 0, 1]]
    assert {loaded.split(split).dtype for split in ("train", "valid", "test")} == {np.dtype(np.int32)}
    assert (loaded.num_entities, loaded.num_relations) == (6, 2)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.999])
def test_one_altered_byte_in_any_file_is_refused(dataset: Dataset, name: str, place: float) -> None:
    """A flipped bit in a table is another graph, and Parquet alone does not notice."""
    path = dataset.path / name
    raw = bytearray(path.read_bytes())
    raw[int(place * len(raw))] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"SHA-256|damaged"):
        Dataset.load(dataset.path)


@pytest.mark.parametrize("change", [0x01, 0x20, 0x2A])
def test_any_altered_byte_of_the_manifest_is_refused(dataset: Dataset, change: int) -> None:
    """The manifest vouches for the tables; nobody but itself vouches for the manifest, white space included."""
    path = dataset.path / "manifest.json"
    raw = path.read_bytes()
    for position in range(len(raw)):
        path.write_bytes(raw[:position] + bytes([raw[position] ^ change]) + raw[position + 1 :])
        with pytest.raises(DataError):
            read_manifest(dataset.path)
    path.write_bytes(raw)
    assert read_manifest(dataset.path)["fingerprint"] == dataset.fingerprint


@pytest.mark.parametrize(
    ("name", "verify"), [(name, verify) for name in FILES for verify in (True, False) if verify or name != "audit.json"]
)
def test_a_missing_or_cut_file_is_refused_even_unverified(dataset: Dataset, name: str, verify: bool) -> None:
    """Without verification damage must still end in a DataError, not in a pyarrow traceback."""
    path = dataset.path / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError):
        Dataset.load(dataset.path, verify=verify)
    path.unlink()
    with pytest.raises(DataError):
        Dataset.load(dataset.path, verify=verify)


def test_unverified_tables_that_contradict_each_other_are_refused(dataset: Dataset) -> None:
    """A table of another graph under this manifest would point triples at texts that are not theirs."""
    (dataset.path / "triples/valid.parquet").write_bytes((dataset.path / "triples/train.parquet").read_bytes())
    with pytest.raises(DataError, match="manifest"):
        Dataset.load(dataset.path, verify=False)


def test_another_format_version_is_refused_by_number(dataset: Dataset) -> None:
    """A later layout must not be half understood."""
    path = dataset.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(DataError, match="version 99"):
        Dataset.load(dataset.path)


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "[" * 100_000])
def test_a_file_that_is_no_manifest_is_refused(dataset: Dataset, content: str) -> None:
    """Any JSON, or none, may lie under that name."""
    (dataset.path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        Dataset.load(dataset.path)


def test_a_folder_without_dataset_says_what_to_do(tmp_path: Path) -> None:
    """The most common mistake: the source is given instead of the prepared directory."""
    with pytest.raises(DataError, match="raydistill prepare"):
        Dataset.load(tmp_path)


def test_an_unknown_split_is_refused(dataset: Dataset) -> None:
    """A misspelt split must not end in a KeyError."""
    with pytest.raises(DataError, match="'dev'"):
        dataset.split("dev")
