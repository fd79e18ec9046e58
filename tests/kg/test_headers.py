"""First lines that name the columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raydistill.errors import DataError
from raydistill.kg.lines import Intake
from raydistill.kg.prepare import prepare
from raydistill.kg.sources import read_source

TRIPLES = {"train": "a\tr\tb\nb\tr\tc\nc\ts\ta\n", "valid": "a\ts\tb\nb\ts\ta\n", "test": "b\ts\tc\nc\tr\tb\n"}


def _write(folder: Path, header: str, splits: tuple[str, ...] = ("train", "valid", "test")) -> Path:
    folder.mkdir(exist_ok=True)
    for split, text in TRIPLES.items():
        (folder / f"{split}.tsv").write_text((f"{header}\n" if split in splits else "") + text)
    return folder


def _set_aside(source: Path) -> list[tuple[str, int]]:
    intake = Intake()
    read_source(source, "auto", intake)
    return [(bad.file, bad.line) for bad in intake.malformed]


@pytest.mark.parametrize("header", ["head\trelation\ttail", "Subject\tPredicate\tObject", "Kopf\tBand\tEnde"])
def test_a_header_is_refused_by_line_or_set_aside(tmp_path: Path, header: str) -> None:
    """Read as a triple it makes two entities that everything is ranked against, and a relation that nobody has."""
    source = _write(tmp_path / "source", header)
    with pytest.raises(DataError, match=r"3 malformed line\(s\)\n    train\.tsv:1: a header"):
        prepare(source, tmp_path / "out")
    dataset = prepare(source, tmp_path / "out", quarantine=True)
    assert (dataset.entity_keys, dataset.relation_keys) == (["a", "b", "c"], ["r", "s"])
    assert (dataset.path / "quarantine.tsv").read_text().count("a header") == 3
    assert dataset.audit()["lines"]["train.tsv"] == {"lines": 4, "blank": 0, "malformed": 1}


def test_words_for_columns_are_enough_in_one_file(tmp_path: Path) -> None:
    """A file that was written by a table's program has a header, the two others that were cut off it may have none."""
    assert _set_aside(_write(tmp_path / "source", "source\trelation\ttarget", ("train",))) == [("train.tsv", 1)]


@pytest.mark.parametrize(
    "header",
    [
        "h\tr\tt",  # The graph has a relation r.
        "head\tr\ttail",
        "head\trelation\thead",
        "entity1\tr\tt",
        "head\tpart of\ttail",
    ],
)
def test_a_triple_that_sounds_like_a_header_stays(tmp_path: Path, header: str) -> None:
    """A graph of anatomy has heads and tails."""
    assert _set_aside(_write(tmp_path / "source", header, ("train",))) == []


@pytest.mark.parametrize("more", ["x\tr\tq", "q\tr\tx", "q\tr\ty", "y\tr\tq", "q\tu\tz"])
def test_a_shared_first_line_whose_words_come_again_stays(tmp_path: Path, more: str) -> None:
    """The same triple in all three splits is a leak that the audit reports, and no header."""
    source = _write(tmp_path / "source", "x\tu\ty")
    assert len(_set_aside(source)) == 3
    with (source / "test.tsv").open("a") as stream:
        stream.write(f"{more}\n")
    assert _set_aside(source) == []


def test_a_shared_only_line_stays(tmp_path: Path) -> None:
    """Set aside, it would leave three empty splits where one triple stands."""
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("a\tr\tb\n")
    assert _set_aside(tmp_path) == []


@pytest.mark.parametrize("header", ["head\ttail\trelation", "predicate\tsubject\tobject"])
def test_columns_in_another_order_are_refused_whatever_is_set_aside(tmp_path: Path, header: str) -> None:
    """The header is the only sign that every triple of the file would be read with its entities as relations."""
    with pytest.raises(DataError, match=r"train\.tsv:1: a header") as refused:
        prepare(_write(tmp_path / "source", header), tmp_path / "out", quarantine=True)
    assert "head, relation, tail" in refused.value.expected


@pytest.mark.parametrize("name", ["WN18RR", "FB15k-237", "UMLS"])
def test_real_graphs_have_no_header(real_folder: Callable[[str], Path], name: str) -> None:
    """A triple that is taken for a header is a hole in a published graph."""
    assert _set_aside(real_folder(name)) == []
