"""`raydistill status` over a ledger as a run writes it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from pyarrow import fs

from raydistill.cli import status as status_module
from raydistill.cli.run import run as run_command
from raydistill.config.load import config_of, load_config
from raydistill.orchestration import locking
from raydistill.orchestration.ledger import Ledger
from raydistill.orchestration.locking import locked
from raydistill.orchestration.rundir import read_config
from raydistill.orchestration.runstore import RunStore

Call = Callable[..., Result]
PLACE = {"lineage": "main", "grade": 0, "number": 0, "time": 0.0}


def append(run: Path, *events: dict[str, Any]) -> None:
    ledger = Ledger.at(run / "ledger")
    for event in events:
        ledger.append(event)


@pytest.fixture
def run(tmp_path: Path, smallest: str) -> Path:
    """A run whose teacher has one of two epochs behind it."""
    root = tmp_path / "run"
    root.mkdir()
    (root / "config.yaml").write_text(smallest, encoding="utf-8")
    metrics = {"valid/both/mrr": 0.25, "loss": 2.0, "seconds": 90.0}
    append(
        root,
        {"kind": "campaign_started", "config_fingerprint": "f", "lineages": ["main"], "grades": ["0-teacher"]},
        {"kind": "trial_begun", **PLACE, "identity": "abc", "parameters": {}, "epochs": 2},
        {
            "kind": "trial_reported",
            **PLACE,
            "epoch": 1,
            "metrics": metrics,
            "checkpoint": "grades/0-teacher/trials/abc/checkpoints/1",
            "digest": "d",
            "outcome": "running",
        },
    )
    return root


def finish(run: Path) -> None:
    promoted = {"identity": "abc", "checkpoint": "c", "digest": "d", "epoch": 1, "metrics": {"valid/both/mrr": 0.25}}
    tested = {"test/both/mrr": 0.21875, "parameters": 10.0, "bytes": 100.0}
    place = {"lineage": "main", "grade": 0, "time": 0.0}
    append(
        run,
        {"kind": "grade_promoted", **place, **promoted},
        {"kind": "promotion_tested", **place, "metrics": tested},
    )


def test_running_trial_is_shown_with_its_time_left(call: Call, run: Path) -> None:
    """How long it will take is what `status` is asked."""
    text = call("status", str(run)).stdout
    assert "0 of 1 grades promoted" in text
    assert "epoch 1/2" in text
    assert "1:30 left" in text
    assert "0.2500" in text


def test_finished_run_shows_its_results(call: Call, run: Path) -> None:
    """The final table must not need the terminal in which the run was started."""
    finish(run)
    text = call("status", str(run)).stdout
    assert "1 of 1 grades promoted, 1 tested" in text
    assert "0.219" in text


def test_promoted_checkpoints_are_named_on_lines_of_their_own(call: Call, run: Path) -> None:
    """What `evaluate`, `predict` and `export` are given; a path that a table has broken cannot be copied."""
    finish(run)
    assert f"promoted main 0-teacher: {run / 'c'}\n" in call("status", str(run)).stdout


def test_choice_of_an_assistant_is_shown(call: Call, run: Path) -> None:
    """Why a grade promoted another depth than its name says is asked here."""
    sizes = {"teacher": 100.0, "student": 0.0, "layers1": 50.0, "layers2": 75.0}
    told = {f"assistant/{name}/parameters": value for name, value in sizes.items()}
    found = {"student/layers": 1.0, "assistant/teacher/mrr": 0.6, "valid/layers1/mrr": 0.55, "valid/layers2/mrr": 0.56}
    metrics = {"valid/both/mrr": 0.55, **told, **found}
    files = {"identity": "abc", "checkpoint": "c", "digest": "d", "epoch": 1}
    append(run, {"kind": "grade_promoted", "lineage": "main", "grade": 0, "time": 0.0, **files, "metrics": metrics})
    text = call("status", str(run)).stdout
    assert "-10.00" in text
    assert "-16.00" in text
    [choice] = json.loads(call("status", str(run), "--json").stdout)["assistants"]
    assert [one["chosen"] for one in choice["candidates"]] == [True, False]


def test_json_holds_every_report(call: Call, run: Path) -> None:
    """Programs draw their own curves."""
    rejected = {"kind": "checkpoint_rejected", **PLACE, "digest": "x", "reason": "weights are damaged"}
    append(run, rejected)
    content = json.loads(call("status", str(run), "--json").stdout)
    [trial] = content["trials"]
    assert trial["reports"][0]["metrics"]["valid/both/mrr"] == 0.25
    assert trial["status"] == "running"
    assert trial["rejected"] == ["x"]
    assert trial["notes"] == ["weights are damaged"]
    assert content["complete"] is False


def test_run_that_nobody_runs_is_told(call: Call, run: Path) -> None:
    """The time left of a campaign that was killed yesterday would be waited for."""
    assert "raydistill run" in call("status", str(run)).stderr
    with locked(run):
        assert call("status", str(run)).stderr == ""


def test_command_that_goes_on_with_a_run_is_one(call: Call, run: Path) -> None:
    """What is copied from the terminal would end with a usage error, with another campaign, or in half of a path."""
    run = run.rename(run.parent / "my run")
    _, _, said = call("status", str(run)).stderr.partition(": raydistill run ")
    given = run_command.make_context("run", shlex.split(said)).params
    assert load_config(given["config"]) == read_config(RunStore.at(run))
    assert (given["run_dir"], given["resume"], given["overrides"]) == (str(run), True, ())


def test_run_elsewhere_is_gone_on_with_by_a_configuration_of_this_machine(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run` would look for a file of that name on this disk; and a shell would cut a URI's query off."""
    monkeypatch.setattr(locking, "is_held", lambda store: False)
    there = RunStore.at("run?a=1&b=2", fs.SubTreeFileSystem(str(run.parent), fs.LocalFileSystem()))
    assert there.remote is not None
    status_module._say_if_left(there, config_of(run.joinpath("config.yaml").read_text(), "here"), complete=False)
    first, second = capsys.readouterr().err.splitlines()
    given = run_command.make_context("run", shlex.split(first.partition(": raydistill run ")[2])).params
    assert (given["config"], given["run_dir"], given["resume"]) == ("CONFIG", there.place, True)
    assert second.endswith(f"a copy of {there.located('config.yaml')}")


def test_watch_ends_with_the_driver(call: Call, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch over a campaign that failed would never end."""
    monkeypatch.setattr(status_module.time, "sleep", lambda _: None)
    result = call("status", str(run), "--watch")
    assert result.exit_code == 0
    assert "no process" in result.stderr


def test_watch_ends_with_the_campaign(call: Call, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch that reads the ledger once waits for ever."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        finish(run)

    monkeypatch.setattr(status_module.time, "sleep", sleep)
    result = call("status", str(run), "--watch")
    assert result.exit_code == 0, result.output
    assert slept == [status_module.INTERVAL_SECONDS]
    assert "0.219" in result.stdout


def test_folder_without_a_run_is_refused(call: Call, tmp_path: Path) -> None:
    """An empty table for a mistyped path looks like a run that has not begun."""
    result = call("status", str(tmp_path))
    assert result.exit_code == 2
    assert "expected: a run directory" in result.stderr


def test_damaged_ledger_is_exit_code_four(call: Call, run: Path) -> None:
    """Half a history shown as the whole one."""
    (run / "ledger/00000002.json").write_text("{}", encoding="utf-8")
    result = call("status", str(run))
    assert result.exit_code == 4
    assert "00000002.json" in result.stderr


def test_watch_and_json_exclude_each_other(call: Call, run: Path) -> None:
    """JSON that is printed again every two seconds is no JSON."""
    assert call("status", str(run), "--watch", "--json").exit_code == 2
