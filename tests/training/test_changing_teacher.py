"""A student whose teacher changes between two epochs, because the grade above still improves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.errors import CheckpointError
from raydistill.teachers.shards import KEPT, KeptTeachers
from raydistill.training.checkpoint import load_model, read_record
from raydistill.training.gather import World
from raydistill.training.manifest import verify_checkpoint
from raydistill.training.trial import EpochReport, run_trial

Config = Callable[..., TrialConfig]
Train = Callable[..., list[EpochReport]]
Teachers = tuple[TeacherReference, TeacherReference]
FOUR = {"epochs": 4, "checkpoint_steps": 2, "batch_size": 5}
STAND_IN = TeacherReference(path="", digest="main, grade 0")


@pytest.fixture(scope="module")
def teachers(trial_config: Config, train: Train, tmp_path_factory: pytest.TempPathFactory) -> Teachers:
    """Two teachers that learned for one epoch and for two."""
    last = [
        train(trial_config(layers=4, training={"epochs": epochs}), tmp_path_factory.mktemp("teacher"))[-1]
        for epochs in (1, 2)
    ]
    first, second = (TeacherReference(path=str(one.checkpoint), digest=str(one.digest)) for one in last)
    return first, second


def changing(config_of: Config, method: str = "pmd", **changes: Any) -> TrialConfig:
    config = config_of(method, encoder={"dropout": 0.1}, training=FOUR, **changes)
    return config.model_copy(update={"teacher": STAND_IN, "settle_epochs": 1})


def after(epoch: int, teachers: Teachers) -> Callable[[int], TeacherReference]:
    """The second teacher from an epoch on."""
    return lambda number: teachers[number >= epoch]


@pytest.mark.parametrize("changes", [{}, {"init": "teacher"}, {"view": "shared"}], ids=["plain", "init", "shared"])
@pytest.mark.parametrize("step", [3, 9, 10])
def test_resumed_student_goes_on_under_the_teacher_of_its_epoch(
    config_of: Config, train: Train, interrupt: Callable[..., None], teachers: Teachers, tmp_path: Path,
    changes: dict[str, Any], step: int,
) -> None:  # fmt: skip
    """A student taken up in the middle of an epoch would finish it under another teacher: other bits, and nobody would know."""
    config, teacher_at = changing(config_of, **changes), after(2, teachers)
    expected = train(config, tmp_path / "straight", teacher_at)
    interrupt(config, tmp_path / "cut", step, teacher_at)
    assert train(config, tmp_path / "cut", teacher_at)[-1].digest == expected[-1].digest


@pytest.mark.parametrize("method", ["boot", "dq", "homodistil", "education", "reinforced", "amd", "mgsr"])
def test_teacher_changes_under_every_kind_of_method(
    config_of: Config, train: Train, interrupt: Callable[..., None], teachers: Teachers, tmp_path: Path, method: str
) -> None:
    """Shapes, policies, times and bounds that are begun anew, or are those of the first teacher, when the second one comes."""
    config, teacher_at = changing(config_of, method, layers=3), after(2, teachers)
    expected = train(config, tmp_path / "straight", teacher_at)
    interrupt(config, tmp_path / "cut", 10, teacher_at)
    assert train(config, tmp_path / "cut", teacher_at)[-1].digest == expected[-1].digest
    assert read_record(str(expected[-1].checkpoint))["lineage"][-1] == teachers[1].digest


def test_teacher_that_never_changes_is_a_teacher(
    config_of: Config, train: Train, teachers: Teachers, tmp_path: Path
) -> None:
    """Asking before every epoch must cost nothing but the question."""
    config = changing(config_of)
    asked = train(config, tmp_path / "asked", lambda epoch: teachers[1])
    plain = config.model_copy(update={"teacher": teachers[1], "settle_epochs": None})
    told = train(plain, tmp_path / "told")
    models = [load_model(str(reports[-1].checkpoint)).state_dict() for reports in (asked, told)]
    assert all(bool((models[0][name] == models[1][name]).all()) for name in models[0])
    assert config.identity != plain.identity


def test_change_is_felt_and_recorded(config_of: Config, train: Train, teachers: Teachers, tmp_path: Path) -> None:
    """A swap that reached the record but not the loss, or the loss but not the record."""
    config = changing(config_of)
    [old, new] = [train(config, tmp_path / f"{epoch}", after(epoch, teachers)) for epoch in (9, 2)]
    assert old[1].metrics["loss/score"] == new[1].metrics["loss/score"]
    assert old[2].metrics["loss/score"] != new[2].metrics["loss/score"]
    assert read_record(str(old[-1].checkpoint))["lineage"][-1] == teachers[0].digest
    assert read_record(str(new[-1].checkpoint))["lineage"][-1] == teachers[1].digest


def test_trial_waits_for_a_teacher_that_is_not_there(
    config_of: Config, train: Train, teachers: Teachers, tmp_path: Path
) -> None:
    """A trial without its final teacher would go on under an earlier one, or hold its place while it waits."""
    config = changing(config_of)
    straight = train(config, tmp_path / "straight", lambda epoch: teachers[0])
    first = train(config, tmp_path / "waiting", lambda epoch: teachers[0] if epoch < 3 else None)
    assert [one.epoch for one in first] == [1, 2, 3]
    assert not first[-1].finished
    assert train(config, tmp_path / "waiting", lambda epoch: None) == []
    rest = train(config, tmp_path / "waiting", lambda epoch: teachers[0])
    assert [one.epoch for one in rest] == [3, 4]
    assert rest[-1].digest == straight[-1].digest


def test_trial_that_waits_keeps_epochs_it_has_not_validated(
    config_of: Config, train: Train, teachers: Teachers, tmp_path: Path
) -> None:
    """An epoch without a checkpoint would be trained twice."""
    config = changing(config_of)
    config = config.model_copy(update={"training": config.training.model_copy(update={"evaluate_every": 2})})
    straight = train(config, tmp_path / "straight", lambda epoch: teachers[0])
    train(config, tmp_path / "waiting", lambda epoch: teachers[0] if epoch < 3 else None)
    asked: list[int] = []

    def again(epoch: int) -> TeacherReference:
        asked.append(epoch)
        return teachers[0]

    rest = train(config, tmp_path / "waiting", again)
    assert min(asked) == 3
    assert rest[-1].digest == straight[-1].digest


def test_disk_holds_the_outputs_of_teachers_that_teach(config_of: Config, teachers: Teachers, tmp_path: Path) -> None:
    """A disk that every announced teacher fills with its outputs for all texts, until no checkpoint can be written."""
    config, directory, kept = changing(config_of), tmp_path / "grades" / "1" / "trials" / "one", tmp_path / "grades/1"
    neighbor, folders = KeptTeachers(kept / KEPT), []
    neighbor.folder(teachers[0].digest)

    def teacher_at(epoch: int) -> TeacherReference:
        if epoch == 3:
            neighbor.close()
        return teachers[epoch % 2]

    for _ in run_trial(config, directory, World.alone(), teacher_at):
        folders.append({path.name for path in (kept / KEPT).iterdir() if path.is_dir()})
    first, second = (teacher.digest[:16] for teacher in teachers)
    # The neighbour's, and that of the epoch.
    assert folders == [{first}, {first, second}, {first}, {second}]
    # The trial has let go of its own.
    neighbor.folder(teachers[0].digest), neighbor.folder(STAND_IN.digest)
    assert not [path for path in (kept / KEPT).iterdir() if path.is_dir()]


def test_damaged_teacher_does_not_teach(config_of: Config, train: Train, teachers: Teachers, tmp_path: Path) -> None:
    """Bytes that changed on the shelf would teach every epoch after."""
    wrong = teachers[1].model_copy(update={"digest": "0" * 64})
    with pytest.raises(CheckpointError, match="digest"):
        train(changing(config_of), tmp_path, lambda epoch: teachers[0] if epoch < 2 else wrong)
    [kept] = [path for path in (tmp_path / "checkpoints").iterdir() if path.name.endswith("8")]
    verify_checkpoint(kept)
    assert json.loads((kept / "raydistill.json").read_text())["epoch"] == 2
