"""Comma-separated triples."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydistill.errors import DataError
from raydistill.kg import lines as lines_module
from raydistill.kg.lines import Intake, Rows
from raydistill.kg.sources import read_source

PIECES = [
    b"a",
    b"b c",
    b" ",
    b"",
    b",",
    b",",
    b",",
    b"\n",
    b"\n",
    b'"',
    b'"',
    b'""',
    b"\r\n",
    b"\r",
    b"\0",
    b"\xff",
    b"\t",
]
ALMOST_RIGHT = st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join)
KEYS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), min_size=1).filter(
    lambda key: key.strip(" ") == key
)


def _read(path: Path, data: bytes) -> tuple[Rows, Intake]:
    path.write_bytes(data)
    intake = Intake()
    return intake.read(path, columns=3, keys=3), intake


@settings(max_examples=300, deadline=None)
@given(data=ALMOST_RIGHT)
def test_the_fast_pass_is_the_exact_pass(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Reading all at once may be faster, never different, and no line may be lost either way."""
    path = tmp_path_factory.mktemp("twin") / "train.csv"
    rows, intake = _read(path, data + b"a,b,c\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "cut_at_commas", lambda *arguments: None)
        exact_rows, exact_intake = _read(path, data + b"a,b,c\n")
    assert [rows.strings(column) for column in range(3)] == [exact_rows.strings(column) for column in range(3)]
    assert np.array_equal(rows.lines, exact_rows.lines)
    assert intake == exact_intake
    tally = intake.tally["train.csv"]
    assert len(rows) + tally["blank"] + tally["malformed"] == tally["lines"]


@settings(max_examples=200, deadline=None)
@given(triples=st.lists(st.tuples(KEYS, KEYS, KEYS), min_size=1, max_size=6))
def test_what_a_table_program_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, triples: list[tuple[str, str, str]]
) -> None:
    """Names of people and places hold commas and quotes."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows(triples)
    rows, intake = _read(tmp_path_factory.mktemp("table") / "train.csv", buffer.getvalue().encode())
    assert list(zip(*(rows.strings(column) for column in range(3)), strict=True)) == triples
    assert not intake.malformed


@pytest.mark.parametrize("line", [b"a,r,b", b'"a, Jr.",r,"say ""b"""'])
def test_a_regular_file_takes_the_fast_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    """If the quick check never held, every large graph would be read line by line in Python."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("line by line")

    monkeypatch.setattr(Intake, "_read_line_by_line", refuse)
    rows, _ = _read(tmp_path / "train.csv", line + b"\r\nNA,r,c\n")
    assert rows.strings(0) == ["a, Jr." if b"Jr" in line else "a", "NA"]
    assert rows.strings(2) == ['say "b"' if b"say" in line else "b", "c"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a,b", "2 column"),
        (b"a,b,c,d", "4 column"),
        (b"a,,c", "column 2 is empty"),
        (b'a,"",c', "column 2 is empty"),
        (b'a,b,"c', "a quote is not closed"),
        (b'a,b "x",c', "inside a field"),
        (b'a,"b"x,c', "inside a field"),
        (b"a,b\xff,c", "not UTF-8"),
        (b"a,b\tx,c", "control character in column 2"),
        (b"a,b,c\0", "NUL"),
    ],
)
def test_each_kind_of_malformed_line_is_named(tmp_path: Path, line: bytes, reason: str) -> None:
    """File, line and reason are what lets a reader find one bad line among millions."""
    rows, intake = _read(tmp_path / "train.csv", b"a,r,b\n\n" + line + b'\n "b" , r,"c"\n')
    assert [rows.strings(column) for column in range(3)] == [["a", "b"], ["r", "r"], ["b", "c"]]
    assert rows.lines.tolist() == [1, 4]
    assert [(bad.file, bad.line, bad.raw) for bad in intake.malformed] == [("train.csv", 3, line)]
    assert reason in intake.malformed[0].reason


def test_a_folder_of_commas_is_a_graph(tmp_path: Path) -> None:
    """A layout of its own, and any layout of lines may have it; packed or not."""
    for split in ("train", "dev"):
        (tmp_path / f"{split}.csv").write_text('a,"is, was",b\nb,"is, was",c\n')
    (tmp_path / "test.csv.gz").write_bytes(gzip.compress(b'c,"is, was",a\n'))
    graph = read_source(tmp_path, "auto", Intake())
    assert (graph.layout, graph.relation_keys) == ("csv", ["is, was"])
    (tmp_path / "entity2text.txt").write_text("a\tAnn\n")
    graph = read_source(tmp_path, "auto", Intake())
    assert (graph.layout, graph.entity_names) == ("kg-bert", ["Ann", "b", "c"])
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.tsv").write_text("a\tr\tb\n")
    assert read_source(tmp_path, "auto", Intake()).relation_keys == ["r"], "as before there were commas"


@pytest.mark.parametrize(
    ("name", "line", "looks", "ending"),
    [
        ("train.tsv", "a,r,b", "comma", ".csv"),
        ("train.txt", '"a, Jr.",r,b', "comma", ".csv"),
        ("train.csv", "a\tr\tb", "tab", ".tsv"),
        ("train.csv", "a;r;b", "semicolon", ".tsv"),
    ],
)
def test_another_separator_is_told_once(tmp_path: Path, name: str, line: str, looks: str, ending: str) -> None:
    """A million lines of "1 column(s) instead of 3" say nothing of the ending that would have been right."""
    with pytest.raises(DataError, match=f"looks {looks}-separated") as refused:
        _read(tmp_path / name, f"\n{line}\n{line}\n".encode())
    assert ending in refused.value.remedy


@pytest.mark.parametrize("data", [b"a,r,b\nb\tr\tc\n", b"a r b\n", b"a,b\n"])
def test_lines_that_may_be_tabs_are_malformed_one_by_one(tmp_path: Path, data: bytes) -> None:
    """One line with commas in a file of tabs is a line to mend, and no reason to rename the file."""
    _, intake = _read(tmp_path / "train.tsv", data)
    assert [(bad.file, bad.line) for bad in intake.malformed] == [("train.tsv", 1)]
