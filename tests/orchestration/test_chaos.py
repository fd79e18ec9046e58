"""Chaos reports what happened: whom it killed, what was trained again, who was left, and whether the end was that of an undisturbed campaign."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fakes
import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.errors import CheckpointError, ConfigError, DataError, RayDistillError, TrainingError
from raydistill.orchestration import chaos
from raydistill.orchestration.chaos import (
    DRIVER,
    Outcome,
    Plan,
    disturbed,
    promoted,
    summary,
    training_seconds,
    trial_seconds,
)

GOOD = Outcome(0, (DRIVER,), 1, same=True, redone=0, orphans=0, seconds=10.0, trials=9.0, useful=8.0)


def test_sound_campaign_was_killed_as_planned_and_lost_nothing() -> None:
    """Ten of ten, of which one was over before it could be killed."""
    assert GOOD.sound
    for harm in ({"same": False}, {"redone": 1}, {"orphans": 1}, {"planned": 2}):
        assert not replace(GOOD, **harm).sound, harm  # type: ignore[arg-type]


def test_useful_seconds_are_those_of_steps_that_a_report_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of a process that counts as training; or an error, after hours, for a report whose seconds were lost with its process."""
    reports = [{"time": 30.0, "metrics": {"seconds": 12.0}}, {"time": 45.0, "metrics": {"seconds": 11.5}}]
    lost = [{"time": 80.0, "metrics": {}}]
    trials = {
        number: SimpleNamespace(begun=begun, reports=told)
        for number, (begun, told) in enumerate(((5.0, reports), (50.0, lost), (90.0, [])))
    }
    monkeypatch.setattr(chaos, "open_run", lambda root: SimpleNamespace(trials=trials))
    assert training_seconds(Path("run")) == 23.5
    assert trial_seconds(Path("run")) == 40.0 + 30.0


def test_summary_tells_what_is_useful_from_what_only_runs() -> None:
    """Validations and the start of a process that pass for training; or one campaign's share for that of all."""
    lame = replace(GOOD, seconds=20.0, trials=3.0, useful=1.0, orphans=1)
    assert summary([GOOD, lame]) == (
        "1 of 2 campaigns ended as if undisturbed; goodput 40 % (training steps alone 30 %)"
    )


REFUSED = "error: c.yaml: 1 problem\n  - training.epcohs: unknown key\n  what to do: mend it\n"


@pytest.mark.parametrize("disturb", [False, True])
@pytest.mark.parametrize(
    ("code", "kind", "said", "told"),
    [
        (2, ConfigError, f"a driver before it\n{REFUSED}\n", REFUSED.removeprefix("error: ").rstrip()),
        (3, DataError, "error: no dataset\n", "no dataset"),
        (4, CheckpointError, "error: damaged\n", "damaged"),
        (5, TrainingError, "error: a trial failed\n", "a trial failed"),
        (70, TrainingError, "unexpected error: KeyError: 1\n  a fault\n", "unexpected error: KeyError: 1\n  a fault"),
        (1, TrainingError, "", "it said nothing"),
        (1, TrainingError, "  in the middle\n", "  in the middle"),
    ],
)
def test_driver_that_ends_by_itself_is_told_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    disturb: bool,
    code: int,
    kind: type[RayDistillError],
    said: str,
    told: str,
) -> None:
    """A misspelt --set ended as a traceback of the script, and its reason lay in a file."""

    def start(config: Path, root: Path, overrides: Sequence[str]) -> subprocess.Popen[bytes]:
        chaos.said_by(root).write_text(said)
        return subprocess.Popen([sys.executable, "-S", "-c", f"raise SystemExit({code})"])

    monkeypatch.setattr(chaos, "start", start)
    plan, root = Plan(tmp_path / "c.yaml"), tmp_path / "undisturbed"
    with pytest.raises(kind) as caught:
        disturbed(plan, root, tmp_path, seed=0) if disturb else next(chaos.chaos(plan, tmp_path, campaigns=1))
    assert type(caught.value) is kind
    assert caught.value.received == f"{root}: the driver ended with {code} (see {chaos.said_by(root)}): {told}"


def test_mistake_in_what_the_script_is_given_is_no_traceback(tmp_path: Path) -> None:
    """A configuration that is not there, or a misspelt --set, looked like a fault of chaos."""
    script = Path(__file__).parents[2] / "jobs/chaos.py"
    command = [sys.executable, str(script), str(tmp_path / "absent.yaml"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"{tmp_path / 'absent.yaml'}: no such file" in done.stderr


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Two kills of a campaign that trains nothing; driven as chaos drives a real one."""

    def start(config: Path, root: Path, overrides: Sequence[str]) -> subprocess.Popen[bytes]:
        resume = ["--resume"] if (root / "config.yaml").exists() else []
        command = [sys.executable, str(Path(fakes.__file__).with_name("drive.py")), str(root), str(config), *resume]
        with open(chaos.said_by(root), "a") as file:
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)

    monkeypatch.setattr(chaos, "start", start)
    monkeypatch.setattr(chaos, "VICTIMS", (DRIVER, "ray::Coordinator"))
    path = tmp_path / "config.json"
    path.write_text(campaign().model_dump_json())
    return Plan(path, kills=2, every=8.0)


def campaign() -> CampaignConfig:
    return fakes.campaign(
        grades=[{"layers": 6, "mask_ratio": 0.1}],
        search={"trials": 1},
        training={"epochs": 4, "batch_size": 4},
        resources={"backend": "inline", "concurrent_trials": 1},
        storage={"share_trials": False},
    )


@pytest.mark.ray
def test_campaign_is_killed_and_compared_with_one_that_was_not(plan: Plan, tmp_path: Path) -> None:
    """Kills that hit nobody; a driver that is not started again; or a comparison of a run with itself."""
    undisturbed = tmp_path / "undisturbed"
    fakes.control(undisturbed, seconds=0.5)
    assert chaos.start(plan.config, undisturbed, ()).wait(240) == 0
    assert promoted(undisturbed) == fakes.expected(campaign(), tmp_path / "twin")
    fakes.control(tmp_path / "killed", seconds=3.0)
    # Of this seed the first victim is the driver; a coordinator that is not there yet is passed over.
    outcome = disturbed(plan, tmp_path / "killed", undisturbed, seed=1)
    assert (outcome.kills[0], len(outcome.kills), outcome.planned) == (DRIVER, 2, 2)
    assert outcome.sound
    assert outcome.useful == pytest.approx(training_seconds(undisturbed))
    assert outcome.trials == pytest.approx(trial_seconds(undisturbed))
    assert outcome.seconds > outcome.trials > 0
    assert set(fakes.trained(tmp_path / "killed")) == set(fakes.trained(undisturbed))
