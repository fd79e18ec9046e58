"""`raydistill verify` finds what was changed, and names it."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from raydistill.data.tokens import load_or_tokenize
from raydistill.kg.prepare import prepare
from raydistill.kg.store import Dataset
from raydistill.orchestration.ledger import Ledger
from raydistill.orchestration.locking import locked
from raydistill.training.manifest import write_manifest

Call = Callable[..., Result]


def make_checkpoint(folder: Path, weights: bytes = b"weights") -> str:
    (folder / "query_encoder").mkdir(parents=True)
    (folder / "query_encoder" / "model.safetensors").write_bytes(weights)
    (folder / "raydistill.json").write_text("{}", encoding="utf-8")
    return write_manifest(folder)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    triples = {"train": ["a\tr\tb", "b\tr\tc", "c\ts\ta"], "valid": ["a\ts\tb"], "test": ["b\ts\tc"]}
    for split, lines in triples.items():
        (source / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return prepare(source, tmp_path / "dataset").path


@pytest.fixture
def run(tmp_path: Path, smallest: str) -> Path:
    """A run with two checkpoints, of which one was promoted."""
    root = tmp_path / "run"
    trial = root / "grades/0-teacher/trials/abc/checkpoints"
    digests = [make_checkpoint(trial / name, name.encode()) for name in ("00000010", "00000020")]
    (root / "config.yaml").write_text(smallest, encoding="utf-8")
    place = {"lineage": "main", "grade": 0, "identity": "abc", "time": 0.0}
    checkpoint = {"checkpoint": "grades/0-teacher/trials/abc/checkpoints/00000020", "digest": digests[1], "epoch": 2}
    ledger = Ledger.at(root / "ledger")
    ledger.append(
        {"kind": "campaign_started", "config_fingerprint": "f", "lineages": ["main"], "grades": ["0-teacher"]}
    )
    ledger.append({"kind": "grade_promoted", **place, **checkpoint, "metrics": {}})
    return root


@pytest.mark.parametrize("kind", ["checkpoint", "dataset", "run"])
def test_sound_directory_passes(call: Call, kind: str, request: pytest.FixtureRequest) -> None:
    """A check that fails on sound files is switched off by everybody."""
    result = call("verify", str(request.getfixturevalue(kind)))
    assert result.exit_code == 0, result.output
    assert f"{kind} " in result.stdout
    assert ": sound, " in result.stdout


@pytest.mark.parametrize(("kind", "code"), [("checkpoint", 4), ("dataset", 3)])
def test_every_damaged_file_is_named(call: Call, kind: str, code: int, request: pytest.FixtureRequest) -> None:
    """One flipped bit, one missing and one foreign file: a check that stops at the first hides the others."""
    root: Path = request.getfixturevalue(kind)
    first, second, *_ = sorted(path for path in root.rglob("*") if path.is_file() and path.name != "manifest.json")
    content = bytearray(first.read_bytes())
    content[0] ^= 1
    first.write_bytes(content)
    second.unlink()
    (root / "foreign.txt").touch()
    result = call("verify", str(root), "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == code
    assert found["sound"] is False
    assert found["kind"] == kind
    assert found["problems"] == [
        f"{first}: changed after it was written",
        f"{second}: missing",
        f"{root / 'foreign.txt'}: not in the manifest",
    ]


@pytest.mark.parametrize(("kind", "code"), [("checkpoint", 4), ("dataset", 3)])
@pytest.mark.parametrize("change", ["missing", "flipped"])
def test_damaged_manifest_is_found(
    call: Call, kind: str, code: int, change: str, request: pytest.FixtureRequest
) -> None:
    """A manifest that was changed along with a file would vouch for it."""
    root: Path = request.getfixturevalue(kind)
    path = root / "manifest.json"
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b'"bytes"', b'"Bytes"', 1))
    result = call("verify", str(root))
    assert result.exit_code == code
    assert "manifest.json" in result.stdout


def keep_tokens(dataset: Path, tokenizer: Any) -> Path:
    """Keep the tokens of a dataset's texts in its directory, as training does."""
    load_or_tokenize(Dataset.load(dataset), tokenizer, "fingerprint")
    [path] = (dataset / "tokens").glob("*.arrow")
    return path


def test_dataset_that_was_trained_on_is_sound(call: Call, dataset: Path, tokenizers: dict[str, Any]) -> None:
    """Training keeps tokens in the dataset directory: called foreign, they would make every used dataset look damaged."""
    path = keep_tokens(dataset, tokenizers["bert"])
    (dataset / "tokens" / "0123.77.aside").touch()
    result = call("verify", str(dataset), "--json")
    assert result.exit_code == 0, result.output
    assert str(path) in json.loads(result.stdout)["checked"]
    (dataset / "tokens" / "notes.txt").touch()
    assert call("verify", str(dataset)).exit_code == 3


def test_damaged_tokens_are_found(call: Call, dataset: Path, tokenizers: dict[str, Any]) -> None:
    """Left out of the check, other tokens than those of the texts would pass for sound."""
    path = keep_tokens(dataset, tokenizers["bert"])
    path.write_bytes(path.read_bytes()[:-1])
    result = call("verify", str(dataset))
    assert result.exit_code == 3
    assert f"damaged: {path}: changed after it was written" in result.stdout


def test_damage_in_a_run_is_told_by_checkpoint(call: Call, run: Path) -> None:
    """A run is as good as the checkpoints it would resume from."""
    weights = run / "grades/0-teacher/trials/abc/checkpoints/00000010/query_encoder/model.safetensors"
    weights.write_bytes(b"other")
    result = call("verify", str(run))
    assert result.exit_code == 4
    assert f"damaged: {weights}: changed after it was written" in result.stdout


def test_what_a_kill_has_left_of_freed_checkpoints_is_no_damage(call: Call, run: Path) -> None:
    """Files that are half removed, and that the ledger calls freed, would send somebody to look for a copy of them."""
    trial = {"lineage": "main", "grade": 0, "number": 1}
    for event in (
        {"kind": "trial_begun", **trial, "identity": "lost", "parameters": {}, "epochs": 1, "time": 0.0},
        {"kind": "trial_failed", **trial, "reason": "nan", "time": 0.0},
    ):
        Ledger.at(run / "ledger").append(event)
    left = run / "grades/0-teacher/trials/lost/checkpoints/00000010"
    make_checkpoint(left, b"loser")
    (left / "manifest.json").unlink()
    assert call("verify", str(run)).exit_code == 4
    Ledger.at(run / "ledger").append({"kind": "trial_freed", **trial, "time": 0.0})
    result = call("verify", str(run))
    assert result.exit_code == 0, result.stdout


@pytest.fixture
def announced(run: Path) -> Path:
    """A teacher that was announced by a grade that has not promoted yet."""
    shelf = run / "grades/1-layers6/teachers"
    ledger = Ledger.at(run / "ledger")
    ledger.append(
        {
            "kind": "campaign_started",
            "config_fingerprint": "f",
            "lineages": ["main"],
            "grades": ["0-teacher", "1-layers6"],
        }
    )
    digest = make_checkpoint(shelf / "aside", b"student")
    (shelf / "aside").rename(shelf / digest[:16])
    place = {"lineage": "main", "grade": 1, "identity": "def", "time": 0.0}
    files = {"checkpoint": f"grades/1-layers6/teachers/{digest[:16]}", "digest": digest, "epoch": 1, "metrics": {}}
    ledger.append({"kind": "teacher_announced", **place, **files})
    return shelf / digest[:16]


def test_announced_teacher_is_checked_like_a_promoted_one(call: Call, run: Path, announced: Path) -> None:
    """A run that stopped on a damaged teacher would be called sound."""
    assert call("verify", str(run)).exit_code == 0
    weights = announced / "query_encoder/model.safetensors"
    weights.write_bytes(b"other")
    result = call("verify", str(run))
    assert result.exit_code == 4
    assert f"damaged: {weights}: changed after it was written" in result.stdout
    (announced / "manifest.json").unlink()
    write_manifest(announced)
    assert "whole, but not the checkpoint that was announced" in call("verify", str(run)).stdout
    announced.rename(run / "elsewhere")
    assert "announced by main 1-layers6, but missing" in call("verify", str(run)).stdout


def test_promoted_checkpoint_must_be_the_promoted_one(call: Call, run: Path) -> None:
    """A checkpoint that is whole but another one would teach the next grade unnoticed."""
    trial = run / "grades/0-teacher/trials/abc/checkpoints"
    (trial / "00000020").rename(trial / "aside")
    (trial / "00000010").rename(trial / "00000020")
    result = call("verify", str(run))
    assert result.exit_code == 4
    assert "not the checkpoint that was promoted" in result.stdout


def test_teacher_from_outside_is_checked_too(call: Call, run: Path, tmp_path: Path) -> None:
    """A damaged teacher that was trained elsewhere would be called sound, because no glob of the run finds it."""
    digest = make_checkpoint(tmp_path / "elsewhere" / "teacher")
    files = {"checkpoint": str(tmp_path / "elsewhere" / "teacher"), "digest": digest, "epoch": 0, "metrics": {}}
    place = {"lineage": "b", "grade": 0, "identity": "given", "time": 0.0}
    Ledger.at(run / "ledger").append({"kind": "grade_promoted", **place, **files})
    assert call("verify", str(run)).exit_code == 0
    weights = next((tmp_path / "elsewhere" / "teacher").rglob("*.safetensors"), None) or next(
        path
        for path in (tmp_path / "elsewhere" / "teacher").iterdir()
        if path.name != "manifest.json" and path.is_file()
    )
    weights.write_bytes(b"x")
    result = call("verify", str(run))
    assert result.exit_code == 4
    assert "elsewhere" in result.stdout
    assert f"sound: {run}" in result.stdout, "which checkpoints can still be used"


def test_run_that_is_being_written_is_left_alone(call: Call, run: Path) -> None:
    """Checkpoints are removed while they are read: sound runs would be called damaged."""
    with locked(run):
        result = call("verify", str(run))
    assert result.exit_code == 2
    assert "is being written" in result.stderr


def test_missing_promoted_checkpoint_is_told(call: Call, run: Path) -> None:
    """What is not there has no manifest to fail."""
    trial = run / "grades/0-teacher/trials/abc/checkpoints"
    (trial / "00000020").rename(run / "elsewhere")
    result = call("verify", str(run))
    assert result.exit_code == 4
    assert "promoted by main 0-teacher, but missing" in result.stdout


def test_damaged_ledger_is_found(call: Call, run: Path) -> None:
    """The ledger decides what a resumed campaign believes."""
    entry = run / "ledger/00000001.json"
    entry.write_text(entry.read_text(encoding="utf-8").replace("main", "mein"), encoding="utf-8")
    result = call("verify", str(run))
    assert result.exit_code == 4
    assert "00000001.json" in result.stdout


def test_event_that_cannot_be_read_is_told_beside_the_checkpoints(
    call: Call, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector below the ledger: nothing else would be looked at, of a run that is looked at for its damage."""

    def refuse(ledger: Ledger, path: str) -> bytes:
        raise OSError(errno.EIO, "input/output error", path)

    monkeypatch.setattr(Ledger, "_content", refuse)
    damaged = run / "grades/0-teacher/trials/abc/checkpoints/00000010/query_encoder/model.safetensors"
    damaged.write_bytes(b"other")
    result = call("verify", str(run))
    assert result.exit_code == 4
    assert "00000001.json cannot be read" in result.output
    assert str(damaged.parent.parent) in result.output


def test_what_is_not_ours_is_no_verdict(call: Call, tmp_path: Path) -> None:
    """`sound` for an empty or foreign folder would be a lie."""
    result = call("verify", str(tmp_path))
    assert result.exit_code == 2
    assert "is nothing that raydistill wrote" in result.stderr


def test_json_is_complete(call: Call, checkpoint: Path) -> None:
    """Programs read what was checked, not how many."""
    found: dict[str, Any] = json.loads(call("verify", str(checkpoint), "--json").stdout)
    assert found["sound"] is True
    assert sorted(Path(path).name for path in found["checked"]) == ["model.safetensors", "raydistill.json"]


def test_structural_model_is_checked_like_a_checkpoint(call: Call, structural_folder: Path, tmp_path: Path) -> None:
    """A teacher that nobody can check; or one that is nothing of ours as soon as its record is what is missing."""
    found = call("verify", structural_folder)
    assert (found.exit_code, "sound, 2 checked" in found.output) == (0, True), found.output
    copy = Path(shutil.copytree(structural_folder, tmp_path / "copy"))
    (copy / "raydistill.json").unlink()
    found = call("verify", copy)
    assert found.exit_code == 4
    assert "raydistill.json: missing" in found.output
