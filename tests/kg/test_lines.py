from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydistill.errors import DataError
from raydistill.kg import lines as lines_module
from raydistill.kg.lines import Intake, Rows, escape

PIECES = st.sampled_from(
    [
        b"a",
        b"b c",
        b" ",
        b"",
        b"\t",
        b"\t",
        b"\t",
        b"\n",
        b"\n",
        b"\r\n",
        b"\r",
        b"\0",
        b"\xff",
        b'"',
        b"\\",
        "é".encode(),
    ]
)
ALMOST_RIGHT = st.lists(PIECES, max_size=40).map(b"".join)
CONTENT = st.one_of(st.binary(max_size=200), ALMOST_RIGHT, st.lists(st.just(b"a\tb\tc\n"), max_size=5).map(b"".join))


def _read(path: Path, data: bytes, keys: int = 3) -> tuple[Rows, Intake]:
    path.write_bytes(data)
    intake = Intake()
    return intake.read(path, columns=3, keys=keys), intake


def _num_lines(data: bytes) -> int:
    content = data
    while content.startswith(b"\xef\xbb\xbf"):
        content = content[3:]
    return len(content.split(b"\n")) - (content.endswith(b"\n") or not content)


@settings(max_examples=400, deadline=None)
@given(data=CONTENT, keys=st.sampled_from([1, 3]))
def test_no_line_is_lost_whatever_the_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes, keys: int) -> None:
    """A line that is neither loaded nor named is a hole in the graph that nobody sees."""
    # Of an ending that promises tabs, a file full of commas is refused as a whole.
    rows, intake = _read(tmp_path_factory.mktemp("lines") / "train.del", data, keys)
    tally = intake.tally["train.del"]
    assert len(rows) + tally["blank"] + tally["malformed"] == tally["lines"] == _num_lines(data)
    assert tally["malformed"] == len(intake.malformed)
    told = [*rows.lines.tolist(), *(bad.line for bad in intake.malformed)]
    assert len(set(told)) == len(told)
    assert all(1 <= line <= tally["lines"] for line in told)


@settings(max_examples=300, deadline=None)
@given(data=ALMOST_RIGHT)
def test_the_fast_pass_is_the_exact_pass(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Reading all at once may be faster, never different."""
    path = tmp_path_factory.mktemp("twin") / "train.tsv"
    rows, intake = _read(path, data + b"a\tb\tc\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "cut_columns", lambda *arguments: None)
        exact_rows, exact_intake = _read(path, data + b"a\tb\tc\n")
    assert [rows.strings(column) for column in range(3)] == [exact_rows.strings(column) for column in range(3)]
    assert np.array_equal(rows.lines, exact_rows.lines)
    assert intake == exact_intake


def test_a_regular_file_takes_the_fast_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the quick check never held, every large graph would be read line by line in Python."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("line by line")

    monkeypatch.setattr(Intake, "_read_line_by_line", refuse)
    rows, _ = _read(tmp_path / "train.tsv", 'a\tr\t"b\r\nNA\tr\té \r\n'.encode())
    assert [rows.strings(column) for column in range(3)] == [["a", "NA"], ["r", "r"], ['"b', "é"]]
    assert rows.lines.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a\tb", "2 column"),
        (b"a\tb\tc\td", "4 column"),
        (b"a b c", "1 column"),
        (b"a\t\tc", "column 2 is empty"),
        (b"a\t  \tc", "column 2 is empty"),
        (b"\t\t", "column 1 is empty"),
        (b"a\tb\0\tc", "NUL"),
        (b"a\tb\xff\tc", "not UTF-8 (byte 0xff)"),
        (b"a\tb\xed\xa0\x80\tc", "not UTF-8"),
        (b"a\tb\rx\tc", "control character in column 2"),
    ],
)
def test_each_kind_of_malformed_line_is_named(tmp_path: Path, line: bytes, reason: str) -> None:
    """File, line and reason are what lets a reader find one bad line among millions."""
    rows, intake = _read(tmp_path / "train.tsv", b"a\tr\tb\n\n" + line + b"\nb\tr\tc\n")
    assert rows.strings(0) == ["a", "b"]
    assert rows.lines.tolist() == [1, 4]
    assert [(bad.file, bad.line) for bad in intake.malformed] == [("train.tsv", 3)]
    assert reason in intake.malformed[0].reason
    assert intake.tally["train.tsv"] == {"lines": 4, "blank": 1, "malformed": 1}
    with pytest.raises(DataError, match=r"train\.tsv:3: ") as refused:
        intake.refuse_malformed("source")
    assert reason in str(refused.value)


def test_the_refusal_lists_ten_lines_and_the_total(tmp_path: Path) -> None:
    """A million bad lines must not become a message of a million lines, and one must not hide the rest."""
    _, intake = _read(tmp_path / "train.tsv", b"bad\n" * 37)
    with pytest.raises(DataError, match="37 malformed") as refused:
        intake.refuse_malformed("source")
    assert "train.tsv:10:" in str(refused.value)
    assert "train.tsv:11:" not in str(refused.value)
    assert "27 more" in str(refused.value)


@pytest.mark.parametrize("name", ["train.tsv", "train.tsv.gz"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_packing_line_ends_and_byte_order_mark_do_not_matter(
    tmp_path: Path, name: str, end: bytes, mark: bytes
) -> None:
    """A byte order mark or carriage return glued to a key makes a new entity that no other file knows."""
    data = mark + end.join([b"a\tr\tb", b"b\tr\tc"])
    rows, intake = _read(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data)
    assert (rows.strings(0), rows.strings(2)) == (["a", "b"], ["b", "c"])
    assert not intake.malformed


@pytest.mark.parametrize("cut", [3, 12, -1, -9])
def test_a_truncated_gzip_file_is_refused_by_name(tmp_path: Path, cut: int) -> None:
    """The rows before the cut would pass for the whole file."""
    packed = gzip.compress(b"".join(b"entity%d\tr\tb\n" % row for row in range(500)))
    with pytest.raises(DataError, match=r"train\.tsv\.gz"):
        _read(tmp_path / "train.tsv.gz", packed[:cut])


def test_a_line_of_a_megabyte_is_loaded(tmp_path: Path) -> None:
    """A reader with a fixed block would split or drop it."""
    word = "w" * 1_000_000
    rows, _ = _read(tmp_path / "train.tsv", f"a\tr\t{word}\n".encode() * 20)
    assert rows.strings(2) == [word] * 20


def test_escape_keeps_one_line_and_every_byte_apart() -> None:
    """Quarantined text with a raw tab or line end would break the quarantine file itself."""
    assert escape(b"a\tb\\\xff\0\r") == r"a\tb\\\xff\x00\r"
    assert escape("é ש".encode()) == "é ש"
