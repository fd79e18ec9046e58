"""`raydistill export`: what it hands on, and that what it writes is a checkpoint for the other commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result


def test_every_command_takes_what_it_writes(
    call: Callable[..., Result], teacher_checkpoint: Callable[..., Path], dataset_folder: Path, tmp_path: Path
) -> None:
    """A folder that its own program calls damaged."""
    out = str(tmp_path / "out")
    result = call("export", str(teacher_checkpoint()), out, "--dataset", str(dataset_folder), "--evaluate")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{out}: 4 layers, ")
    assert "| test | both |" in (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert call("verify", out).exit_code == 0
    scored = json.loads(call("evaluate", out, "--data", str(dataset_folder), "--json").stdout)
    exported = json.loads(call("export", str(teacher_checkpoint()), str(tmp_path / "again"), "--json").stdout)
    assert scored["metrics"]["test/both/mrr"] > 0
    assert exported["record"]["exported"]["unpacked"] is False
    asked = call(
        "predict", out, "--data", str(dataset_folder), "--head", "ann", "--relation", "knows", "--new", "--json"
    )
    answers = json.loads(asked.stdout)["answers"]
    assert answers
    assert not {"bob", "carl"} & {answer["key"] for answer in answers}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("s3://bucket/out",), "give a folder of this machine"),
        (("out", "--evaluate"), "give --dataset"),
        (("out", "--base-model", "~/encoder"), "base model '~/encoder'"),
    ],
)
def test_refuses_what_it_cannot_write(
    call: Callable[..., Result],
    teacher_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    """A folder named `s3:`, or a card without the numbers that were asked for."""
    monkeypatch.chdir(tmp_path)
    result = call("export", str(teacher_checkpoint()), *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_refuses_what_is_no_checkpoint(call: Callable[..., Result], dataset_folder: Path, tmp_path: Path) -> None:
    """A traceback for a mistaken argument."""
    result = call("export", str(dataset_folder), str(tmp_path / "out"))
    assert result.exit_code == 4
    assert "is a dataset directory" in result.stderr
