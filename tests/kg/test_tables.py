from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydistill.errors import DataError
from raydistill.kg.lines import Intake
from raydistill.kg.sources import read_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    for split in ("train", "dev", "test"):
        table = pa.table({"tail": ["b", "c"], "head": ["a", " b "], "relation": ["knows", "knows"]})
        pq.write_table(table, source / f"{split}.parquet")
    return source


def test_columns_are_found_by_name_and_texts_are_optional(folder: Path) -> None:
    """Read by position, a table with its columns in another order would be another graph."""
    graph = read_source(folder, "auto", Intake())
    assert (graph.layout, graph.entity_keys) == ("parquet", ["a", "b", "c"])
    assert graph.triples["valid"].tolist() == [[0, 0, 1], [1, 0, 2]]
    assert graph.unnamed.all()
    pq.write_table(pa.table({"key": ["b", "z"], "name": ["Bob", None]}), folder / "entities.parquet")
    pq.write_table(pa.table({"key": ["knows"], "phrase": ["is known to"]}), folder / "relations.parquet")
    graph = read_source(folder, "auto", Intake())
    assert graph.entity_keys == ["b", "z", "a", "c"]
    assert graph.entity_names == ["Bob", "z", "a", "c"]
    assert graph.relation_phrases == ["is known to"]


def test_empty_and_repeated_keys_are_named_by_row(folder: Path) -> None:
    """A null key would become an entity called None."""
    table = pa.table({"head": ["a", None, ""], "relation": ["knows"] * 3, "tail": ["b"] * 3})
    pq.write_table(table, folder / "train.parquet")
    pq.write_table(pa.table({"key": ["b", "b"], "name": ["Bob", "Rob"]}), folder / "entities.parquet")
    intake = Intake()
    graph = read_source(folder, "auto", intake)
    assert len(graph.triples["train"]) == 1
    assert [(bad.file, bad.line) for bad in intake.malformed] == [
        ("train.parquet", 2),
        ("train.parquet", 3),
        ("entities.parquet", 2),
    ]


def test_control_characters_in_keys_are_named_by_row(folder: Path) -> None:
    """A key with a tab or a line end in it tears every file of lines that it is written to."""
    heads = ["a", "a\tb", "a\0", "a\n", " a "]
    pq.write_table(pa.table({"head": heads, "relation": ["knows"] * 5, "tail": ["b"] * 5}), folder / "train.parquet")
    pq.write_table(pa.table({"key": ["a", "b\x1f"], "name": ["A\tnn\n", "Bob"]}), folder / "entities.parquet")
    intake = Intake()
    graph = read_source(folder, "auto", intake)
    assert graph.triples["train"].tolist() == [[0, 0, 1]] * 2
    assert graph.entity_names[0] == "A nn"
    assert [(bad.file, bad.line) for bad in intake.malformed] == [
        ("train.parquet", 2),
        ("train.parquet", 3),
        ("train.parquet", 4),
        ("entities.parquet", 2),
    ]
    assert {bad.reason for bad in intake.malformed} == {"control character in a key"}


def test_columns_that_are_not_wanted_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside three short columns a table may hold a page of text per row."""
    table = pq.read_table(folder / "train.parquet").append_column("page", pa.array(["x", "y"]))
    pq.write_table(table, folder / "train.parquet")
    asked: list[list[str]] = []
    read = pq.ParquetFile.read

    def watch(file: pq.ParquetFile, columns: list[str]) -> pa.Table:
        asked.append(columns)
        return read(file, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read", watch)
    read_source(folder, "auto", Intake())
    assert asked == [["head", "relation", "tail"]] * 3


def test_tables_that_are_none_are_refused(folder: Path) -> None:
    """Any bytes may carry the name, and any columns the table."""
    pq.write_table(pa.table({"subject": ["a"], "relation": ["r"], "tail": ["b"]}), folder / "test.parquet")
    with pytest.raises(DataError, match="head"):
        read_source(folder, "auto", Intake())
    pq.write_table(pa.table({"head": [["a"]], "relation": ["r"], "tail": ["b"]}), folder / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet"):
        read_source(folder, "auto", Intake())
    (folder / "test.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(DataError, match=r"test\.parquet"):
        read_source(folder, "auto", Intake())
