"""A bad campaign at the command line: the right exit code, an explanation in four parts, and nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from click.testing import Result

from raydistill.config.load import dump_config, parse_config
from raydistill.orchestration.ledger import Ledger

LABELS = ("error: ", "\n  expected: ", "\n  otherwise: ", "\n  what to do: ")
Change = Callable[[dict[str, Any], Path], None]


def _misspelt_key(campaign: dict[str, Any], root: Path) -> None:
    campaign["training"] = {"epcohs": 1}


def _unknown_method(campaign: dict[str, Any], root: Path) -> None:
    campaign["method"] = {"name": "pdm"}


def _mask_ratio(campaign: dict[str, Any], root: Path) -> None:
    campaign["grades"][0]["mask_ratio"] = 1.5


def _no_share_for_the_task(campaign: dict[str, Any], root: Path) -> None:
    campaign["method"] = {"name": "pmd", "alpha": 0.5, "beta": 0.5}


def _layer_that_is_not_there(campaign: dict[str, Any], root: Path) -> None:
    campaign["grades"] = [{"layers": 2, "layer_map": [0, 12]}]


def _student_deeper_than_its_teacher(campaign: dict[str, Any], root: Path) -> None:
    campaign["teacher"] = {"layers": 2}
    campaign["grades"] = [{"layers": 3}]


def _missing_encoder(campaign: dict[str, Any], root: Path) -> None:
    campaign["encoder"] = {"name": "/nowhere/at/all"}


def _wrong_manifest(campaign: dict[str, Any], root: Path) -> None:
    path = root / "dataset" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"train"', b'"trian"', 1))


def _missing_dataset(campaign: dict[str, Any], root: Path) -> None:
    campaign["data"] = {"path": str(root / "absent")}


def _run_of_another_campaign(campaign: dict[str, Any], root: Path) -> None:
    other = parse_config({**campaign, "seed": 7})
    (root / "run").mkdir()
    (root / "run" / "config.yaml").write_text(dump_config(other), encoding="utf-8")
    start = {"kind": "campaign_started", "config_fingerprint": "f", "lineages": ["main"], "grades": ["0-teacher"]}
    Ledger.at(root / "run" / "ledger").append(start)


def files_of(root: Path) -> dict[str, bytes]:
    """Contents by name; the lock of a run says who looked at it last and decides nothing."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in root.rglob("*")
        if path.name != ".lock"
    }


@pytest.mark.needs_ray
@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (_misspelt_key, 2, "training.epcohs: unknown key 'epcohs'; did you mean 'epochs'?"),
        (_unknown_method, 2, "method: unknown method 'pdm'"),
        (_mask_ratio, 2, "grades.0.mask_ratio: received 1.5"),
        (_no_share_for_the_task, 2, "method: alpha + beta can reach 1"),
        (_layer_that_is_not_there, 2, "cannot be trained\n  - grade 1-layers2: layer map [0, 12]"),
        (_student_deeper_than_its_teacher, 2, "a student of 3 layers stands below a teacher of 2"),
        (_missing_encoder, 2, "/nowhere/at/all"),
        (_wrong_manifest, 3, "manifest.json: damaged"),
        (_missing_dataset, 3, "absent: no readable manifest.json"),
        (_run_of_another_campaign, 2, "belongs to another configuration\n  - seed: the run has 7, now 0"),
    ],
)
def test_bad_campaign_is_refused_before_anything_starts(
    call: Callable[..., Result],
    dataset_folder: Path,
    encoder_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Change,
    code: int,
    said: str,
) -> None:
    """Found out after an hour of training, or told as a traceback, each of these costs an afternoon."""

    def started(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a cluster was started for a campaign that cannot run")

    monkeypatch.setattr("raydistill.orchestration.campaign.connected", started)
    shutil.copytree(dataset_folder, tmp_path / "dataset")
    campaign: dict[str, Any] = {
        "data": {"path": str(tmp_path / "dataset"), "max_tokens": 32},
        "encoder": {"name": str(encoder_folder(layers=6))},
        "grades": [{"layers": 3}],
    }
    change(campaign, tmp_path)
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(campaign), encoding="utf-8")
    before = files_of(tmp_path)
    resume = ["--resume"] if (tmp_path / "run").exists() else []
    result = call("run", str(tmp_path / "campaign.yaml"), "--run-dir", str(tmp_path / "run"), *resume)
    assert result.exit_code == code, result.output
    assert said in result.stderr
    for label in LABELS:
        assert label in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert files_of(tmp_path) == before
