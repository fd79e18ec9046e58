"""`raydistill prepare` on small folders."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from raydistill.kg.store import Dataset

Call = Callable[..., Result]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    triples = {"train": ["a\tr\tb", "b\tr\tc", "c\ts\ta"], "valid": ["a\ts\tb"], "test": ["b\ts\tc"]}
    for split, lines in triples.items():
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_audit_is_printed_once(call: Call, source: Path, tmp_path: Path) -> None:
    """Findings that are both printed and logged come twice."""
    result = call("-v", "prepare", str(source), "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].startswith("3 entities, 2 relations, 3 / 1 / 1 triples")
    assert result.output.count("3 entities, 2 relations") == 1
    assert str(tmp_path / "out") in result.stdout.splitlines()[-1]
    assert logging.getLogger("raydistill.kg.prepare").level == logging.NOTSET, "the Python API still warns afterwards"


def test_json_names_the_fingerprint(call: Call, source: Path, tmp_path: Path) -> None:
    """A fingerprint that is not the dataset's would be compared in vain."""
    content = json.loads(call("prepare", str(source), "--out", str(tmp_path / "out"), "--json").stdout)
    assert content["fingerprint"] == Dataset.load(tmp_path / "out").fingerprint
    assert content["audit"]["counts"]["train"] == 3


def test_malformed_line_is_exit_code_three(call: Call, source: Path, tmp_path: Path) -> None:
    """A dropped line makes another graph."""
    with (source / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("a\tr\n")
    result = call("prepare", str(source), "--out", str(tmp_path / "out"))
    assert result.exit_code == 3
    assert "train.tsv" in result.stderr
    assert "Traceback" not in result.output
    assert call("prepare", str(source), "--out", str(tmp_path / "out"), "--quarantine").exit_code == 0


def test_missing_source_is_exit_code_three(call: Call, tmp_path: Path) -> None:
    """A mistyped path must not leave an empty dataset."""
    result = call("prepare", str(tmp_path / "absent"), "--out", str(tmp_path / "out"))
    assert result.exit_code == 3
    assert not (tmp_path / "out").exists()


def test_part_of_the_relations_is_told(call: Call, source: Path, tmp_path: Path) -> None:
    """A part that is taken for the graph."""
    result = call("prepare", str(source), "--out", str(tmp_path / "out"), "--part", "2/2")
    assert result.exit_code == 0, result.output
    assert "Part 2 of 2: 1 of 2 relations have triples, 1 of 3 in train" in result.stdout


@pytest.mark.parametrize(("part", "code"), [("4/3", 2), ("0/3", 2), ("x", 2), ("1/3", 2), ("1/2", 3)])
def test_part_that_is_not_there_is_refused(call: Call, source: Path, tmp_path: Path, part: str, code: int) -> None:
    """A traceback, or a dataset of nothing: there are two relations, and the first has no triple in valid."""
    result = call("prepare", str(source), "--out", str(tmp_path / "out"), "--part", part)
    assert result.exit_code == code
    assert "what to do" in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_one_file_needs_a_share_and_is_cut_by_it(call: Call, source: Path, tmp_path: Path) -> None:
    """The first graph of most users is one file."""
    triples = [f"e{row}\tr\te{(row + step) % 20}" for row in range(20) for step in (1, 2, 3)]
    graph = tmp_path / "graph.tsv"
    graph.write_text("\n".join(triples), encoding="utf-8")
    refused = call("prepare", str(graph), "--out", str(tmp_path / "out"))
    assert refused.exit_code == 3
    assert "--hold-out 0.1" in refused.stderr
    result = call("prepare", str(graph), "--out", str(tmp_path / "out"), "--hold-out", "0.1")
    assert result.exit_code == 0, result.output
    assert "20 entities, 1 relations, 48 / 6 / 6 triples" in result.stdout
    assert "6 for valid and 6 for test were cut out of train with seed 0" in result.stdout
    again = call("prepare", str(source), "--out", str(tmp_path / "again"), "--hold-out", "0.1")
    assert again.exit_code == 2
    assert "3 / 1 / 1 triples" in again.stderr


@pytest.mark.parametrize("option", [("--hold-out", "0.5"), ("--hold-out", "nan"), ("--layout", "kgbert")])
def test_values_out_of_range_are_exit_code_two(
    call: Call, source: Path, tmp_path: Path, option: tuple[str, str]
) -> None:
    """A traceback, or a dataset without training."""
    result = call("prepare", str(source), "--out", str(tmp_path / "out"), *option)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_help_lists_the_layouts(call: Call) -> None:
    """Names that are found in the source code alone are found by nobody."""
    from raydistill.kg.layouts import LAYOUTS

    said = "".join(call("prepare", "--help").stdout.split())
    assert f"[{'|'.join(LAYOUTS)}]" in said
