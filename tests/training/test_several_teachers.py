"""Trials with several teachers: each checked, kept in a place of its own, and seen by the term that asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.errors import CapabilityError, TeacherError
from raydistill.models.features import Needs
from raydistill.teachers.cache import CachedTeacher
from raydistill.teachers.several import SeveralTeachers
from raydistill.teachers.shards import KEPT
from raydistill.teachers.views import LiveTeacher
from raydistill.training.checkpoint import load_model, read_record
from raydistill.training.evaluate import evaluate_checkpoint
from raydistill.training.gather import World
from raydistill.training.ground import checked_encoder, checked_others
from raydistill.training.manifest import verify_checkpoint
from raydistill.training.parts import build_parts
from raydistill.training.trial import EpochReport, run_trial

Config = Callable[..., TrialConfig]
Train = Callable[..., list[EpochReport]]
Folder = Callable[..., Path]


def numbers(report: EpochReport) -> dict[str, float]:
    return {key: value for key, value in report.metrics.items() if key not in ("seconds", "examples_per_second")}


def reference(path: Path) -> TeacherReference:
    return TeacherReference(path=str(path), digest=verify_checkpoint(path))


def test_kept_and_live_teachers_teach_alike(config_of: Config, train: Train, tmp_path: Path) -> None:
    """Outputs of one teacher under another one's name, or in another one's width."""
    kept = train(config_of("reinforced"), tmp_path / "grade" / "trials" / "kept")
    live = train(config_of("reinforced", training={"remember_teacher": False}), tmp_path / "live")
    assert [numbers(report) for report in kept] == [numbers(report) for report in live]
    folders = [path.name for path in (tmp_path / "grade" / KEPT).iterdir() if path.is_dir()]
    config = config_of("reinforced")
    assert config.teacher is not None
    assert sorted(folders) == sorted(one.digest[:16] for one in (config.teacher, *config.others))


def test_each_teacher_answers_for_itself(config_of: Config) -> None:
    """A second teacher that is the first one again; a term without others that pays for them."""
    parts = build_parts(config_of("reinforced"), World.alone())
    source, texts = parts.trainer.teacher, parts.trainer.builder.all_texts(parts.trainer.source.triples)[0]
    assert isinstance(source, SeveralTeachers)
    assert all(isinstance(one, CachedTeacher) for one in (source.first, *source.others))
    source.at_epoch(0)
    found = source.encode(texts, "query", Needs(others=True))
    config = parts.config
    for reference_, vectors in zip((config.teacher, *config.others), (found.vectors, *found.others), strict=True):
        assert reference_ is not None
        alone = LiveTeacher(load_model(reference_.path, tokens_per_micro_batch=64))
        torch.testing.assert_close(vectors, alone.encode(texts, "query", Needs()).vectors)
    assert [vectors.shape[1] for vectors in (found.vectors, *found.others)] == [16, 24]
    assert source.encode(texts, "query", Needs()).others == ()
    source.encode_at_most(7)
    assert {one.live.model.tokens_per_micro_batch for one in (source.first, *source.others)} == {7}  # type: ignore[attr-defined]


def test_lone_teachers_trial_is_that_of_logit_distillation(
    config_of: Config, trial_config: Config, train: Train, tmp_path: Path
) -> None:
    """A ladder whose first grade, which has one teacher, is another method than the one its numbers are compared with."""
    teacher = Path(config_of("kl").teacher.path)  # type: ignore[union-attr]
    shared = {"alpha": 0.4, "temperature": 3.0}
    found = []
    for method in ({"name": "logits", **shared}, {"name": "reinforced", **shared}):
        config = trial_config(method=method, teacher=teacher, encoder={"dropout": 0.1})
        report = train(config, tmp_path / str(method["name"]))[-1]
        found.append(load_model(str(report.checkpoint)).state_dict())
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_student_of_several_loads_is_ranked_and_teaches(config_of: Config, train: Train, tmp_path: Path) -> None:
    """A grade that ends in a checkpoint nobody can use; or a record that says nothing of who taught."""
    config = config_of("reinforced")
    last = train(config, tmp_path / "first")[-1]
    checkpoint = Path(str(last.checkpoint))
    assert read_record(checkpoint)["taught_beside"] == [one.digest for one in config.others]
    assert "taught_beside" not in read_record(Path(config.others[0].path))
    report = evaluate_checkpoint(str(checkpoint), config.data.path, "valid")
    assert float(report.metrics["valid/both/mrr"]) == pytest.approx(last.metrics["valid/both/mrr"])
    others = [reference(Path(one.path)).model_dump() for one in (config.teacher, *config.others) if one is not None]
    below = config_of("reinforced", teacher=checkpoint, others=others, layers=1)
    assert train(below, tmp_path / "second")[-1].finished


def test_others_stay_when_the_teacher_changes(config_of: Config, teacher_checkpoint: Folder, tmp_path: Path) -> None:
    """A pipelined grade whose given teachers, or what is kept of them, are lost with the first teacher that is replaced."""
    first, second = reference(teacher_checkpoint()), reference(teacher_checkpoint(shared_towers=True))
    config = config_of("reinforced", settle_epochs=1).model_copy(
        update={"teacher": TeacherReference(path="", digest="main, grade 0")}
    )
    directory = tmp_path / "grade" / "trials" / "one"
    reports = list(run_trial(config, directory, World.alone(), lambda epoch: (first, second)[epoch]))
    assert [report.epoch for report in reports] == [1, 2]
    folders = {path.name for path in (tmp_path / "grade" / KEPT).iterdir() if path.is_dir()}
    assert folders == {one.digest[:16] for one in (second, *config.others)}
    assert {"policy/chosen0", "policy/chosen1"} <= reports[-1].metrics.keys()


def test_shared_view_is_kept_of_all_teachers(config_of: Config, train: Train, tmp_path: Path) -> None:
    """Other teachers that read the clean text while student and teacher read the corrupted one."""
    settings: dict[str, Any] = {"mask_ratio": 0.2, "view": "shared"}
    found = [
        train(
            config_of("reinforced", training={"corruptions": 2, "remember_teacher": kept}, **settings),
            tmp_path / str(kept),
        )
        for kept in (True, False)
    ]
    assert [numbers(report) for report in found[0]] == [numbers(report) for report in found[1]]


def test_other_teachers_are_checked_as_the_teacher_is(config_of: Config, teacher_checkpoint: Folder) -> None:
    """A student that learns from a checkpoint that was exchanged, or that reads its token ids as other words."""
    config = config_of("reinforced")
    facts = checked_encoder(config)
    [wide] = checked_others(config, facts)
    assert wide.hidden_size == 24
    exchanged = TeacherReference(path=config.others[0].path, digest="0" * 64)
    with pytest.raises(TeacherError, match="has digest"):
        checked_others(config.model_copy(update={"others": (exchanged,)}), facts)
    foreign = reference(teacher_checkpoint("roberta"))
    with pytest.raises(CapabilityError, match="another tokenizer"):
        checked_others(config.model_copy(update={"others": (foreign,)}), facts)


def test_combined_method_asks_for_the_others_too(config_of: Config, trial_config: Config) -> None:
    """A part that has nobody to choose among."""
    taught = config_of("reinforced")
    parts = [{"name": "minilm"}, {"name": "reinforced"}]
    config = taught.model_copy(update={"method": trial_config(method={"name": "combined", "parts": parts}).method})
    trainer = build_parts(config, World.alone()).trainer
    list(trainer.run_epoch())
    averages = trainer.averages()
    assert {"loss/ce", "loss/reinforced.selected", "policy/chosen1"} <= averages.keys()
