"""Wikidata5M's files, and what SimKGC's preprocessing makes of them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from raydistill.errors import DataError
from raydistill.kg.columns import blocks_of
from raydistill.kg.lines import Intake
from raydistill.kg.prepare import prepare
from raydistill.kg.sources import read_source
from raydistill.kg.wikidata import read_wide

TRIPLES = {
    "train": "Q1\tP31\tQ2\nQ2\tP361\tQ3\n",
    "valid": "Q1\tP361\tQ3\n",
    "test": "Q3\tP31\tQ2\n",
}
TEXTS = {
    "wikidata5m_entity.txt": "Q1\tuniverse\tcosmos\tThe Universe\nQ2\tEarth\nQ9\tunused\tspare\n",
    "wikidata5m_text.txt": "Q1\tThe universe is all of space\tand time.\nQ2\t Earth, the  third planet. \n",
    "wikidata5m_relation.txt": "P31\tinstance of\tis a\tis an\nP361\tpart of\n",
}


def _write(folder: Path, stem: str, texts: dict[str, str] = TEXTS) -> Path:
    folder.mkdir(exist_ok=True)
    for split, content in TRIPLES.items():
        (folder / f"{stem}{split}.txt").write_text(content)
    for name, content in texts.items():
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize("stem", ["wikidata5m_transductive_", "wikidata5m_inductive_", ""])
def test_the_first_of_many_names_is_the_name(tmp_path: Path, stem: str) -> None:
    """Four names a line are no four columns of a table, and the second name is not the description."""
    graph = read_source(_write(tmp_path / "source", stem), "auto", intake := Intake())
    assert not intake.malformed
    assert graph.layout == "wikidata5m"
    assert graph.entity_keys == ["Q1", "Q2", "Q3"]
    assert graph.entity_names == ["universe", "Earth", "Q3"]
    assert graph.entity_descriptions == ["The universe is all of space and time.", "Earth, the third planet.", ""]
    assert graph.relation_phrases == ["instance of", "part of"]
    assert any("one split" in note for note in graph.notes) == (stem == "wikidata5m_inductive_")
    assert "1 entities that have a text but stand in no triple were left out." in graph.notes


def test_the_two_settings_in_one_folder_are_told_apart_by_name(tmp_path: Path) -> None:
    """Unpacked side by side, as SimKGC's script does, one of them would be taken by chance."""
    folder = _write(tmp_path / "source", "wikidata5m_transductive_")
    _write(folder, "wikidata5m_inductive_")
    (folder / "wikidata5m_inductive_valid.txt").write_text("Q7\tP31\tQ8\n")
    with pytest.raises(DataError, match="both settings") as refused:
        read_source(folder, "auto", Intake())
    assert "--layout wikidata5m-inductive" in refused.value.remedy
    assert read_source(folder, "wikidata5m-inductive", Intake()).num_entities == 5
    graph = read_source(folder, "wikidata5m-transductive", Intake())
    assert graph.num_entities == 3
    assert "wikidata5m_inductive_train.txt" in graph.notes[-1]


def test_texts_that_are_not_there_are_told(tmp_path: Path) -> None:
    """The archives are three, and the one with the texts is the largest to fetch."""
    texts = {"wikidata5m_relation.txt": TEXTS["wikidata5m_relation.txt"]}
    graph = read_source(_write(tmp_path / "source", "wikidata5m_transductive_", texts), "auto", Intake())
    assert "wikidata5m_entity.txt, wikidata5m_text.txt" in graph.notes[0]
    bare = read_source(_write(tmp_path / "bare", "wikidata5m_transductive_", {}), "auto", Intake())
    assert bare.notes[0].startswith("The source has no texts")


def test_bad_lines_are_named_and_set_aside(tmp_path: Path) -> None:
    """One line in five million, which no one finds without its number."""
    folder = _write(tmp_path / "source", "wikidata5m_transductive_")
    content = b"Q1\tuniverse\n\nQ2\nQ2\t\xff\n\tnobody\nQ2\tEarth\r\nQ2\tTerra\nQ2\tEarth\tworld\n"
    (folder / "wikidata5m_entity.txt.gz").write_bytes(gzip.compress(content))
    (folder / "wikidata5m_entity.txt").unlink()
    with pytest.raises(DataError, match="4 malformed"):
        prepare(folder, tmp_path / "out")
    dataset = prepare(folder, tmp_path / "out", quarantine=True)
    assert dataset.entity_names == ["universe", "Earth", "Q3"]
    assert dataset.audit()["lines"]["wikidata5m_entity.txt.gz"] == {"lines": 8, "blank": 1, "malformed": 4}
    told = [line.split("\t")[1:3] for line in (dataset.path / "quarantine.tsv").read_text().splitlines()[1:]]
    assert told == [
        ["3", "1 column(s) instead of 2 or more"],
        ["4", "not UTF-8 (byte 0xff)"],
        ["5", "column 1 is empty"],
        ["7", "key was listed before with another text"],
    ]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("data", [b"", b"a\n", b"a", b"\xef\xbb\xbfab\ncd\n\nef", b"\n\n", b"long line\nx"])
def test_blocks_are_whole_lines_and_the_whole_file(tmp_path: Path, data: bytes, size: int) -> None:
    """A line that is cut in two at the end of a block is two malformed ones."""
    (tmp_path / "file").write_bytes(data)
    # A byte order mark is looked for in the first piece alone, which in earnest is never so short.
    blocks = list(blocks_of(tmp_path / "file", max(size, 3)))
    assert b"".join(blocks) == data.removeprefix(b"\xef\xbb\xbf")
    assert all(block.endswith(b"\n") for block in blocks[:-1])


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    """Read in pieces, the names before the damage would pass for all of them."""
    packed = gzip.compress(b"".join(b"Q%d\tname %d\n" % (row, row) for row in range(5000)))
    (tmp_path / "names.txt.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"names\.txt\.gz"):
        read_wide(Intake(), tmp_path / "names.txt.gz", is_joined=False)
