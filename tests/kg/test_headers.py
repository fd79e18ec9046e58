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
        "subject_id\tpredicate_id\tobject_id",
        "head\tlabel\ttail",
        "Entity 1\tRelation\tEntity 2",
        "node_1\tedge\tnode_2",
        "node1_id\tedge_type\tnode2_id",
        "entity_id_1\trelation name\tentity_id_2",
        "Source Node\tEdge Label\tTarget Node",
        "start\ttype\tend",
        ":START_ID\t:TYPE\t:END_ID",
        "head_label\trelation_label\ttail_label",
    ],
)
def test_words_of_other_tables_are_known(tmp_path: Path, header: str) -> None:
    """What graph databases and tables of pairs call their columns loads as a triple as easily as head and tail."""
    assert _set_aside(_write(tmp_path / "source", header, ("train",))) == [("train.tsv", 1)]


def test_a_header_in_commas_is_quoted_as_commas_again(tmp_path: Path) -> None:
    """The line that is shown must be one that can be found in the file, and put back into it."""
    (tmp_path / "graph.csv").write_text('"Entity 1",Relation,Entity 2\na,r,b\nb,s,"c, d"\n')
    intake = Intake()
    read_source(tmp_path / "graph.csv", "auto", intake, may_lack=True)
    assert [bad.raw for bad in intake.malformed] == [b"Entity 1,Relation,Entity 2"]
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.csv").write_text(f'"Kopf, ""A""",Band,Ende\na,{split},b\n')
    (tmp_path / "graph.csv").unlink()
    intake = Intake()
    read_source(tmp_path, "auto", intake)
    assert [bad.raw for bad in intake.malformed] == [b'"Kopf, ""A""",Band,Ende'] * 3


@pytest.mark.parametrize("more", ["entity_1\tr\ta", "a\tr\tentity_2", "a\ttype\tb"])
def test_counted_keys_are_no_header(tmp_path: Path, more: str) -> None:
    """Made-up graphs count their entities, and the first of them may be of a relation of its own."""
    source = _write(tmp_path / "source", "entity_1\ttype\tentity_2", ("train",))
    assert len(_set_aside(source)) == 1
    with (source / "train.tsv").open("a") as stream:
        stream.write(f"{more}\n")
    assert _set_aside(source) == []


@pytest.mark.parametrize(
    "header",
    [
        "h\tr\tt",  # The graph has a relation r.
        "head\tr\ttail",
        "head\trelation\thead",
        "entity1\tr\tt",
        "head\tpart of\ttail",
        "s1\tp1\to1",
        "entity2\trelation\tentity3",
        "node\ttype\tlabel",
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
