"""`raydistill run --dry-run`: a real graph and encoder are looked at, and nothing is begun."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from raydistill.cli.outlook import worded
from raydistill.config.load import load_config
from raydistill.config.space import Choice, LogUniform, Uniform
from raydistill.orchestration.rundir import write_config
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.search import Distribution

Call = Callable[..., Result]
Write = Callable[..., str]

pytestmark = pytest.mark.needs_ray


def test_grades_are_shown_and_nothing_is_begun(call: Call, tiny_campaign: Write, tmp_path: Path) -> None:
    """A run directory that is there afterwards would have to be resumed."""
    grades = [{"layers": 2, "mask_ratio": {"choice": [0.0, 0.1]}, "trials": 2}, {"layers": 1, "mask_ratio": 0.0}]
    run = tmp_path / "run"
    path = tiny_campaign(grades=grades, training={"epochs": 3, "batch_size": 4, "precision": "fp32"})
    result = call("run", path, "--run-dir", str(run), "--dry-run")
    assert result.exit_code == 0, result.output
    assert "0 | 0.1" in result.output
    assert "4 trials at most" in result.output
    assert not run.exists()
    content = json.loads(call("run", path, "--run-dir", str(run), "--dry-run", "--json").stdout)
    assert content["run"] == str(run)
    assert [one["grade"] for one in content["grades"]] == ["0-teacher", "1-layers2", "2-layers1"]
    assert [one["trials"] for one in content["grades"]] == [1, 2, 1]
    assert content["grades"][1]["space"] == {"mask_ratio": {"choice": [0.0, 0.1]}}
    assert content["grades"][1]["parameters"] > content["grades"][2]["parameters"] > 0
    assert all(one["steps"] > 0 for one in content["grades"])


def test_what_a_run_would_refuse_is_refused(call: Call, tiny_campaign: Write, tmp_path: Path) -> None:
    """A dry run that promises what the run then refuses."""
    deep = call("run", tiny_campaign(grades=[{"layers": 40}]), "--run-dir", str(tmp_path / "run"), "--dry-run")
    assert deep.exit_code == 2
    assert "deeper than" in deep.output
    path = tiny_campaign()
    (tmp_path / "begun").mkdir()
    write_config(RunStore.at(tmp_path / "begun"), load_config(path))
    ledger = RunStore.at(tmp_path / "begun").ledger("ledger")
    started = {"kind": "campaign_started", "lineages": ["main"], "grades": ["0-teacher"], "time": 0.0}
    ledger.append({**started, "config_fingerprint": ""})
    begun = call("run", path, "--run-dir", str(tmp_path / "begun"), "--dry-run")
    assert begun.exit_code == 2
    assert "already holds this campaign" in begun.output
    resumed = "run", path, "--run-dir", str(tmp_path / "begun"), "--dry-run", "--resume"
    assert "trials at most, those that have ended included" in call(*resumed).output
    (tmp_path / "begun" / "environment.json").write_text('{"dataset_fingerprint": "another"}')
    ledger.append({**started, "config_fingerprint": "f" * 64})
    changed = call(*resumed)
    assert changed.exit_code == 2, changed.output
    assert "was another" in changed.output


def test_first_ladder_of_a_search_is_shown(call: Call, tiny_campaign: Write, tmp_path: Path) -> None:
    """Which ladders follow depends on what it comes to."""
    ladders = {"ladders": 3, "grades": [1, 1], "depths": [1, 2], "mask_ratios": [0.0, 0.1]}
    result = call("run", tiny_campaign(ladders=ladders), "--run-dir", str(tmp_path / "run"), "--dry-run")
    assert result.exit_code == 0, result.output
    assert "grades of the first of 3 ladders" in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (Choice(choice=(0.0, 0.15)), "0 | 0.15"),
        (Choice(choice=((0, 2, 4), "first")), "0-2-4 | first"),
        (Uniform(uniform=(0.0, 0.2)), "0 to 0.2"),
        (LogUniform(log_uniform=(1e-5, 3e-4)), "1e-05 to 0.0003, log"),
    ],
)
def test_searched_values_are_told_in_words(values: Distribution, words: str) -> None:
    """The repr of a validated object is nothing to read."""
    assert worded(values) == words
