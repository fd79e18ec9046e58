"""What each command passes on and prints, with fakes where the work is done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from raydistill.errors import RunDirectoryError, ScoringError
from raydistill.orchestration.ledger import Ledger
from raydistill.planning.state import CampaignState, replay

EVENTS: list[dict[str, Any]] = [
    {"kind": "campaign_started", "config_fingerprint": "f", "lineages": ["main"], "grades": ["0-teacher", "1-layers3"]},
    {
        "kind": "grade_promoted",
        "lineage": "main",
        "grade": 0,
        "identity": "t",
        "checkpoint": "/there/checkpoint",
        "digest": "d",
        "epoch": 1,
        "metrics": {"valid/both/mrr": 0.5},
    },
    {
        "kind": "promotion_tested",
        "lineage": "main",
        "grade": 0,
        "metrics": {"test/both/mrr": 0.4375, "test/both/hits@10": 0.5, "parameters": 10.0},
    },
]


@dataclass
class FakeCampaign:
    """Remembers how it was made and run."""

    config: Any
    run_dir: str
    variables: Any = None
    calls = []  # type: ignore[var-annotated]  # noqa: RUF012 - shared on purpose: the test reads it

    def run(self, *, resume: bool, observe: Callable[[CampaignState], None] | None) -> CampaignState:
        if resume:
            raise RunDirectoryError("no run", remedy="leave out --resume")
        self.calls.append(self)
        Path(self.run_dir).mkdir(parents=True)
        if observe is not None:
            observe(replay(EVENTS[:1]))
        return replay(EVENTS)


@pytest.fixture
def campaign_file(
    tmp_path: Path, smallest: str, monkeypatch: pytest.MonkeyPatch, fake_module: Callable[..., None]
) -> Path:
    monkeypatch.chdir(tmp_path)
    FakeCampaign.calls.clear()
    fake_module("raydistill.orchestration.campaign", Campaign=FakeCampaign)
    path = tmp_path / "ladder.yaml"
    path.write_text(smallest, encoding="utf-8")
    return path


def test_run_takes_its_directory_from_the_file_name(call: Callable[..., Result], campaign_file: Path) -> None:
    """Two configuration files writing into one default directory."""
    result = call("run", str(campaign_file), "--set", "training.epochs=3")
    assert result.exit_code == 0, result.output
    [campaign] = FakeCampaign.calls
    assert campaign.run_dir == "runs/ladder"
    assert campaign.config.training.epochs == 3
    lines = result.stdout.splitlines()
    assert lines[-1] == "run runs/ladder"
    assert "promoted main 0-teacher: /there/checkpoint" in lines
    assert "0.438" in result.stdout
    assert Path("runs/ladder/report.html").is_file()


def test_run_passes_variables_on_and_has_them_itself(
    call: Callable[..., Result], campaign_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket that the driver reaches and its cluster does not, or the other way round."""
    monkeypatch.setenv("KEY", "here")
    monkeypatch.setenv("ENDPOINT", "other")
    result = call("run", str(campaign_file), "--env", "KEY", "--env", "ENDPOINT=there")
    assert result.exit_code == 0, result.output
    assert FakeCampaign.calls[0].variables == {"KEY": "here", "ENDPOINT": "there"}
    assert os.environ["ENDPOINT"] == "there"
    refused = call("run", str(campaign_file), "--run-dir", "other", "--env", "ABSENT_VARIABLE")
    assert refused.exit_code == 2
    assert "--env ABSENT_VARIABLE" in refused.stderr
    assert not Path("other").exists()


def test_run_prints_json_alone_on_standard_output(call: Callable[..., Result], campaign_file: Path) -> None:
    """A progress line in front of JSON breaks whoever parses it."""
    result = call("run", str(campaign_file), "--run-dir", "here", "--json")
    content = json.loads(result.stdout)
    assert content["run"] == "here"
    assert content["results"]["plain"]["grades"][0]["metrics"]["mrr"] == 0.4375


def test_run_tells_why_it_cannot_resume(call: Callable[..., Result], campaign_file: Path) -> None:
    """`--resume` that is swallowed on the way would start afresh."""
    begun = Path("runs/ladder/config.yaml")
    begun.parent.mkdir(parents=True)
    begun.touch()
    result = call("run", str(campaign_file), "--resume")
    assert result.exit_code == 2
    assert result.stderr == "error: no run\n  what to do: leave out --resume\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--run-dir", "mistyped", "--resume"), "holds no run to resume"), (("--run-dir", "ladder.yaml/x"), "is a file")],
)
def test_run_refuses_a_directory_that_cannot_be_meant_before_it_looks_at_anything(
    call: Callable[..., Result], campaign_file: Path, arguments: tuple[str, ...], said: str
) -> None:
    """A mistyped directory would be made, and the data and encoder read for minutes, before it is refused."""
    result = call("run", str(campaign_file), *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert FakeCampaign.calls == []
    assert [path.name for path in campaign_file.parent.iterdir()] == ["ladder.yaml"]


@pytest.mark.parametrize(
    ("command", "begun", "promised"), [("run", True, True), ("run", False, False), ("evaluate", False, False)]
)
def test_interrupted_run_alone_can_be_resumed(
    call: Callable[..., Result],
    campaign_file: Path,
    fake_module: Callable[..., None],
    command: str,
    begun: bool,
    promised: bool,
) -> None:
    """Told to resume a command that cannot, the reader looks for an option that is not there; or is refused, because nothing was begun yet."""

    def interrupted(*_: object, **__: object) -> None:
        if begun:
            Path("runs/ladder").mkdir(parents=True)
            Path("runs/ladder/config.yaml").touch()
        raise KeyboardInterrupt

    fake_module("raydistill.orchestration.campaign", Campaign=interrupted)
    fake_module("raydistill.training.evaluate", evaluate_checkpoint=interrupted)
    arguments = {"run": [str(campaign_file)], "evaluate": [".", "--data", "."]}[command]
    result = call(command, *arguments)
    assert result.exit_code == 130
    assert ("--resume" in result.stderr) == promised


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "storage.path=nope://bucket/runs"), "a URI that pyarrow knows"),
        (("--run-dir", "s3://key:word@bucket/x"), "credentials in the environment"),
    ],
)
def test_run_refuses_a_place_that_nobody_knows(
    call: Callable[..., Result], campaign_file: Path, arguments: tuple[str, ...], words: str
) -> None:
    """`nope://bucket` is a valid local path: results would land in a folder named `nope:`."""
    result = call("run", str(campaign_file), *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert FakeCampaign.calls == []


def test_what_came_to_its_end_is_reported_with_the_error_of_the_rest(
    call: Callable[..., Result], campaign_file: Path, fake_module: Callable[..., None]
) -> None:
    """One method of a comparison that cannot be scored, and the table of all others is shown nowhere."""

    class Unscored(FakeCampaign):
        def run(self, *, resume: bool, observe: object) -> CampaignState:
            ledger = Ledger.at(Path(self.run_dir) / "ledger")
            for event in EVENTS:
                ledger.append(event)
            raise ScoringError("a promoted checkpoint cannot be scored")

    fake_module("raydistill.orchestration.campaign", Campaign=Unscored)
    result = call("run", str(campaign_file))
    assert result.exit_code == 5
    assert "error: a promoted checkpoint cannot be scored" in result.stderr
    assert "runs/ladder/report.html shows what has come to its end" in result.stderr
    assert "0.438" in Path("runs/ladder/report.md").read_text(encoding="utf-8")


def test_run_refuses_a_bad_file_before_anything_starts(call: Callable[..., Result], campaign_file: Path) -> None:
    """A misspelt key that is found after the teacher was trained."""
    campaign_file.write_text("data: {path: x}\nencodr: {name: y}\n", encoding="utf-8")
    result = call("run", str(campaign_file))
    assert result.exit_code == 2
    assert "did you mean 'encoder'?" in result.stderr
    assert FakeCampaign.calls == []
