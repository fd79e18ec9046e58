"""Whole campaigns whose data and run lie on another file system: an S3, and one given from Python.

`RAYDISTILL_ELSEWHERE=1` also runs all grades at once, and trials of two workers, there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakes
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from pyarrow import fs

from raydistill.cli.main import commands
from raydistill.config.load import dump_config, parse_config
from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TeacherReference
from raydistill.errors import RunDirectoryError
from raydistill.orchestration.campaign import Campaign
from raydistill.orchestration.depot import cache_folder
from raydistill.orchestration.locking import locked
from raydistill.orchestration.remote import RemoteFolder
from raydistill.orchestration.rundir import open_run
from raydistill.orchestration.workshop import survey
from raydistill.planning.grades import grade_plans, lineages_of, trial_config
from raydistill.planning.records import MRR
from raydistill.planning.state import CampaignState

if TYPE_CHECKING:
    from raydistill.training.trial import EpochReport

pytestmark = pytest.mark.ray


class Interrupted(Exception):  # noqa: N818 - it is no error of ours
    """Stands for a driver that dies."""


def promoted(state: CampaignState) -> dict[tuple[str, int], str]:
    return {place: promotion.digest for place, promotion in state.promotions.items()}


def forget_this_machine() -> None:
    """What another machine has: nothing."""
    shutil.rmtree(cache_folder(), ignore_errors=True)


@pytest.fixture(scope="module")
def config(dataset_folder: Path, encoder_folder: Callable[..., Path]) -> CampaignConfig:
    """A teacher and a student of the real trainer, four epochs each, on the nine-triple graph."""
    return parse_config(
        {
            "data": {"path": str(dataset_folder), "max_tokens": 32},
            "encoder": {"name": str(encoder_folder("bert", dropout=0.1))},
            "grades": [{"layers": 2, "mask_ratio": 0.2, "init": "teacher"}],
            "training": {"batch_size": 6, "epochs": 4, "learning_rate": 1e-3, "precision": "fp32"},
            "resources": {"backend": "inline", "concurrent_trials": 1, "cpus_per_worker": 1},
        }
    )


def best_of(reports: list[EpochReport]) -> EpochReport:
    return max(reports, key=lambda one: (one.metrics[MRR], -one.epoch))


@pytest.fixture(scope="module")
def expected(config: CampaignConfig, tmp_path_factory: pytest.TempPathFactory) -> list[list[EpochReport]]:
    """The reports of teacher and student, run by hand on local paths."""
    from raydistill.training.gather import World
    from raydistill.training.trial import run_trial

    ground, [lineage] = survey(config), lineages_of(config)
    trials: list[list[EpochReport]] = []
    for plan in grade_plans(config, ground):
        best = best_of(trials[-1]) if trials else None
        teacher = TeacherReference(path=str(best.checkpoint), digest=str(best.digest)) if best else None
        trial = trial_config(config, lineage, plan, {}, ground, teacher)
        trials.append(list(run_trial(trial, tmp_path_factory.mktemp("local"), World.alone())))
    return trials


def check_promotions(state: CampaignState, expected: list[list[EpochReport]]) -> None:
    assert promoted(state) == {("main", grade): best_of(reports).digest for grade, reports in enumerate(expected)}


@pytest.fixture(scope="module")
def on_s3(s3: Callable[[str], str], config: CampaignConfig, dataset_folder: Path) -> CampaignConfig:
    """The campaign with its dataset in the bucket."""
    folder = RemoteFolder.at(s3("graphs/nine"))
    assert folder is not None
    folder.send(dataset_folder)
    return config.model_copy(update={"data": config.data.model_copy(update={"path": s3("graphs/nine")})})


def at(config: CampaignConfig, place: str) -> CampaignConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"path": place})})


@pytest.fixture(scope="module")
def run_on_s3(cluster: None, expected: list[list[EpochReport]], on_s3: CampaignConfig, s3: Callable[[str], str]) -> str:
    """A finished run in the bucket: it was interrupted in the student's grade and went on from a machine that knew nothing of it."""
    place = s3("runs/first")

    def interrupt(state: CampaignState) -> None:
        if any(one.reports for one in state.of("main", 1)):
            raise Interrupted

    forget_this_machine()
    with pytest.raises(Interrupted):
        Campaign(on_s3, place).run(observe=interrupt)
    teacher = open_run(place).trials["main", 0, 0]
    forget_this_machine()
    state = Campaign(on_s3, place).run(resume=True)
    check_promotions(state, expected)
    assert state.trials["main", 0, 0].reports == teacher.reports, "a finished trial was run again"
    student = state.trials["main", 1, 0]
    assert [one["digest"] for one in student.reports] == [one.digest for one in expected[1]]
    return place


def test_campaign_on_s3_gives_what_local_trials_give(run_on_s3: str, expected: list[list[EpochReport]]) -> None:
    """Bits lost or changed on the way, a report before its checkpoint, or a path of one machine in the ledger."""
    state = open_run(run_on_s3)
    check_promotions(state, expected)
    assert len(state.tests) == 2
    run = RemoteFolder.at(run_on_s3)
    assert run is not None
    files = run.files()
    assert {"config.yaml", "environment.json", "metrics.parquet"} <= set(files)
    kept = {name.partition("/checkpoints/")[2][:8] for name in files if "/checkpoints/" in name and "1-layers2" in name}
    local = Path(str(expected[1][-1].checkpoint)).parent
    assert kept == {path.name for path in local.iterdir() if path.name.isdigit()}, "as many as a local run keeps"
    assert not [name for name in files if name.startswith((".tune", "grades/0-teacher/teachers"))]
    assert any(name.endswith("trial.json") for name in files)
    table = pq.read_table(run.folder + "/metrics.parquet", filesystem=run.filesystem)
    assert table.num_rows == sum(len(one.reports) for one in state.trials.values())
    assert list(cache_folder().glob("runs/*/grades/*/trials/*/trial.json"))
    assert not list(cache_folder().glob("runs/*/grades/*/trials/*/checkpoints/*")), (
        "what was sent is not kept here, too"
    )


def test_finished_run_on_s3_is_returned_and_guarded(run_on_s3: str, on_s3: CampaignConfig) -> None:
    """Resuming it from another machine would run it again; two drivers would write one ledger."""
    forget_this_machine()
    before = open_run(run_on_s3)
    assert promoted(Campaign(on_s3, run_on_s3).run(resume=True)) == promoted(before)
    assert open_run(run_on_s3).events == before.events
    with pytest.raises(RunDirectoryError, match="add --resume"):
        Campaign(on_s3, run_on_s3).run()
    with locked(run_on_s3), pytest.raises(RunDirectoryError, match=r"in use by process \d+ on .* lease runs out at"):
        Campaign(on_s3, run_on_s3).run(resume=True)


def test_second_run_in_a_bucket_takes_what_the_first_has_trained(
    run_on_s3: str, expected: list[list[EpochReport]], on_s3: CampaignConfig, s3: Callable[[str], str]
) -> None:
    """Every ladder of a search in a bucket would train a teacher of its own."""
    forget_this_machine()
    place = s3("runs/second")
    state = Campaign(on_s3, place).run()
    check_promotions(state, expected)
    assert [trial.notes for trial in state.trials.values()] == [[f"taken from {run_on_s3}"]] * 2
    start, _, _ = place.partition("?")
    assert all(one.checkpoint.startswith(start) for one in state.promotions.values())


def call(*arguments: str) -> Any:
    result = CliRunner().invoke(commands, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_commands_take_places_on_s3(
    run_on_s3: str, on_s3: CampaignConfig, expected: list[list[EpochReport]], dataset_folder: Path, tmp_path: Path
) -> None:
    """A result in the bucket that could only be looked at after copying it by hand."""
    forget_this_machine()
    status = call("status", run_on_s3)
    checkpoint = next(one["checkpoint"] for one in status["promotions"] if one["grade"] == 1)
    assert checkpoint.startswith("s3://bucket/runs/first/grades/1-layers2/")
    scores = call("evaluate", checkpoint, "--data", on_s3.data.path)
    local = call("evaluate", str(best_of(expected[1]).checkpoint), "--data", str(dataset_folder))
    assert scores["metrics"] == local["metrics"]
    tested = next(one["metrics"] for one in status["tests"] if one["grade"] == 1)
    assert local["metrics"].items() <= tested.items()
    answers = call("predict", checkpoint, "--data", on_s3.data.path, "--head", "ann", "--relation", "knows")
    assert len(answers["answers"]) > 1
    (tmp_path / "campaign.yaml").write_text(dump_config(on_s3))
    result = call("run", str(tmp_path / "campaign.yaml"), "--run-dir", run_on_s3, "--resume")
    assert result["report"].startswith("s3://bucket/runs/first/report.html?")
    run = RemoteFolder.at(run_on_s3)
    assert run is not None
    assert b"1-layers2" in (run.read("report.html") or b"")
    for place, kind in ((run_on_s3, "run"), (checkpoint, "checkpoint"), (on_s3.data.path, "dataset")):
        findings = call("verify", place)
        assert (findings["kind"], findings["sound"]) == (kind, True)
        assert all(one.startswith("s3://bucket/") for one in findings["checked"])


def test_campaign_on_a_given_file_system(
    cluster: None, expected: list[list[EpochReport]], config: CampaignConfig, tmp_path: Path
) -> None:
    """Storage that only Python can open (with keys of its own, or a test's) could not be used; or a given teacher not be found again."""
    shutil.copytree(config.data.path, tmp_path / "graph", ignore=shutil.ignore_patterns("tokens"))
    shutil.copytree(str(best_of(expected[0]).checkpoint), tmp_path / "models" / "teacher")
    filesystem = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    given = at(config, "graph")
    given = given.model_copy(update={"teacher": given.teacher.model_copy(update={"checkpoint": "models/teacher"})})
    check_promotions(Campaign(given, "runs/first", filesystem=filesystem).run(), expected)
    again = open_run("runs/first", filesystem)
    assert again.promotions["main", 0].checkpoint == "models/teacher"
    assert again.promotions["main", 1].checkpoint.startswith("runs/first/grades/1-layers2/")


@pytest.mark.skipif("RAYDISTILL_ELSEWHERE" not in os.environ, reason="takes minutes; RAYDISTILL_ELSEWHERE=1 runs it")
@pytest.mark.parametrize("kind", ["pipelined", "train"])
def test_ladders_and_workers_elsewhere(cluster: None, tmp_path: Path, kind: str, dataset_folder: Path) -> None:
    """Announced teachers, two workers of a trial and Ray's own files need places that other machines reach too."""
    settings: dict[str, Any] = {
        "pipelined": {
            "schedule": {"name": "pipelined"},
            "resources": {"backend": "inline", "concurrent_trials": 1},
            "grades": [{"layers": 6, "mask_ratio": 0.1}],
        },
        "train": {
            "resources": {"backend": "train", "workers_per_trial": 2},
            "grades": [{"layers": 6, "mask_ratio": 0.1}],
        },
    }
    config = at(fakes.campaign(**settings[kind]), dataset_folder.as_uri())
    (tmp_path / "there").mkdir()
    filesystem = fs.SubTreeFileSystem(str(tmp_path / "there"), fs.LocalFileSystem())
    state = Campaign(config, "run", fakes.workshop(), filesystem=filesystem).run()
    assert state.complete
    if kind == "train":
        assert promoted(state) == fakes.expected(config, tmp_path / "twin")
    for promotion in state.promotions.values():
        assert fakes.verify(str(tmp_path / "there" / promotion.checkpoint)) == promotion.digest
    assert not list((tmp_path / "there").glob("run/grades/*/teachers/*/manifest.json")), "shelves are cleared"
    assert not (tmp_path / "there" / "run" / ".tune").exists()
