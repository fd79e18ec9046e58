from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.config.amd import AssistantSection
from raydistill.config.trial import TrialConfig
from raydistill.errors import CapabilityError, TrialInterruptedError
from raydistill.planning import records
from raydistill.planning.records import LAYERS, MRR
from raydistill.students.assistants import from_numbers
from raydistill.students.inner import cut_off
from raydistill.students.nested import Assistants
from raydistill.training.checkpoint import checkpoint_facts, load_model, read_record
from raydistill.training.evaluate import evaluate_checkpoint
from raydistill.training.gather import World
from raydistill.training.manifest import RECORD, write_manifest
from raydistill.training.parts import TrialParts, build_parts
from raydistill.training.standing import BYTES, DEPTH, SELECTION, checkpoint_size, rankings, standing
from raydistill.training.trial import EpochReport, run_trial

Config = Callable[..., TrialConfig]
Train = Callable[..., list[EpochReport]]


@pytest.fixture(scope="module")
def config(config_of: Config) -> TrialConfig:
    """Candidates of one, two and three layers, under a teacher of four."""
    return config_of("amd", layers=3, layer_map=(0, 2, 3), encoder={"dropout": 0.1}, training={"epochs": 2})


@pytest.fixture(scope="module")
def trained(config: TrialConfig, train: Train, tmp_path_factory: pytest.TempPathFactory) -> list[EpochReport]:
    """The reports of its trial."""
    return train(config, tmp_path_factory.mktemp("trained"))


def test_trial_ends_as_the_assistant_it_chose(config: TrialConfig, trained: list[EpochReport]) -> None:
    """A candidate in the record and another one in the weights; or one that is promoted before it was chosen."""
    first, last = trained
    assert SELECTION not in first.metrics
    assert f"unfinished/{SELECTION}" in first.metrics
    assert not any(name.startswith("valid/layers") for name in first.metrics)
    assert last.checkpoint is not None
    record, model = read_record(last.checkpoint), load_model(last.checkpoint)
    [said] = record["reshaping"]
    rows = {row["layers"]: row for row in said["candidates"]}
    assert list(rows) == [1, 2, 3]
    assert all(last.metrics[f"valid/layers{depth}/mrr"] == row["mrr"] for depth, row in rows.items())
    chosen = max(rows.values(), key=lambda row: row["npsd"])["layers"]
    assert model.num_layers == record["layers"] == checkpoint_facts(last.checkpoint)["layers"] == chosen
    assert record["layer_map"] == [0, 2, 3][:chosen]
    assert last.metrics["student/layers"] == chosen
    assert "student/layers" not in first.metrics
    assert not any(name.startswith("assistant/") for name in first.metrics)
    told = from_numbers(last.metrics)
    assert told is not None
    assert [row.row for row in told[0]] == said["candidates"]
    assert asdict(told[1]) == said["teacher"]
    assert record["parameters"] == rows[chosen]["parameters"] == checkpoint_size(last.checkpoint)[0]
    assert record["metrics"][SELECTION] == last.metrics[SELECTION] == rows[chosen]["mrr"]
    report = evaluate_checkpoint(last.checkpoint, config.data.path, "valid")
    for key, value in report.metrics.items():
        assert last.metrics[key] == pytest.approx(value, abs=1e-6), key


def test_keys_of_a_checkpoints_metrics_are_those_that_promotion_reads() -> None:
    """Two floors that may not know each other, and write and read different words."""
    assert (SELECTION, DEPTH, BYTES) == (MRR, LAYERS, records.BYTES)


def test_choice_compares_with_what_the_teachers_checkpoint_says(
    config: TrialConfig, trained: list[EpochReport]
) -> None:
    """A teacher measured by other rules than its students, or its size without its vocabulary."""
    assert config.teacher is not None
    teacher, [said] = read_record(config.teacher.path), read_record(str(trained[-1].checkpoint))["reshaping"]
    assert said["teacher"] == {"parameters": teacher["parameters"], "mrr": teacher["metrics"][SELECTION]}
    for row in said["candidates"]:
        assert row["scale"] == row["parameters"] / teacher["parameters"]
        lost = 100 * (teacher["metrics"][SELECTION] - row["mrr"])
        assert row["npsd"] == pytest.approx(-lost / (1 - row["scale"]))


def test_teacher_without_a_validation_on_this_graph_is_measured(config: TrialConfig, tmp_path: Path) -> None:
    """A choice by a number from another graph, or a training that ends without one."""
    assert config.teacher is not None
    known = standing(config.teacher.path, config.data.path, config.data_fingerprint, World.alone(), "auto")
    for number, changes in enumerate(({"metrics": {}}, {"data_fingerprint": "another", "metrics": {SELECTION: 0.9}})):
        copy = Path(shutil.copytree(config.teacher.path, tmp_path / str(number)))
        (copy / "manifest.json").unlink()
        (copy / RECORD).write_text(json.dumps({**read_record(copy), **changes}))
        write_manifest(copy)
        found = standing(str(copy), config.data.path, config.data_fingerprint, World.alone(), "auto")
        assert found.mrr == pytest.approx(known.mrr, abs=1e-6)
        assert replace(found, mrr=known.mrr) == known


@pytest.mark.parametrize("when", ["before the choice", "after it"])
def test_trial_killed_at_its_end_ends_with_the_same_bits(
    config: TrialConfig,
    trained: list[EpochReport],
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    """An assistant cut off twice or chosen anew by a student that is it already: the last validation was lost, or its checkpoint was not."""
    original = Assistants.after_validation

    class KilledError(Exception):
        pass

    def dying(self: Assistants, student: Any, measured: Any, last: bool, teacher: Any) -> Any:
        answer = None if when == "before the choice" and last else original(self, student, measured, last, teacher)
        if last:
            raise KilledError
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Assistants, "after_validation", dying)
        with pytest.raises(KilledError):
            list(run_trial(config, tmp_path, World.alone()))
    reports = train(config, tmp_path)
    assert [report.digest for report in reports] == [report.digest for report in trained]
    [again] = train(config, tmp_path)
    assert (again.digest, again.finished, again.metrics[SELECTION]) == (
        trained[-1].digest,
        True,
        trained[-1].metrics[SELECTION],
    )


def test_trial_interrupted_in_its_last_validation_ends_with_the_same_bits(
    config: TrialConfig, trained: list[EpochReport], train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student that is saved as one of its candidates, while that one is validated."""
    validations, original = list[int](), rankings

    def counted(student: Any, variants: Any, *rest: Any) -> Any:
        validations.append(len(variants))
        # The whole student was ranked before; what is told to end is the ranking of a candidate.
        return original(next(iter(variants.values())) if len(validations) == 2 else student, variants, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("raydistill.training.parts.rankings", counted)
        with pytest.raises(TrialInterruptedError):
            list(run_trial(config, tmp_path, World.alone(), None, lambda: len(validations) == 2))
    assert validations == [0, 3]
    assert train(config, tmp_path)[-1].digest == trained[-1].digest


def test_assistant_stands_between_teacher_and_student_in_the_record(
    config: TrialConfig, trained: list[EpochReport], trial_config: Config, train: Train, tmp_path: Path
) -> None:
    """A student that learns from the teacher after all, or one that looks for layers that the assistant does not have."""
    assert config.teacher is not None
    assistant = Path(str(trained[-1].checkpoint))
    for name in ("pkd", "pmd", "tinybert"):
        below = trial_config(layers=1, method={"name": name}, teacher=assistant, training={"epochs": 1})
        [report] = train(below, tmp_path / name)
        assert math.isfinite(report.metrics["loss"])
        record = read_record(str(report.checkpoint))
        assert record["lineage"] == [config.teacher.digest, trained[-1].digest]
        assert record["layers"] == 1
    student = trial_config(layers=1, init="teacher", layer_map="first", teacher=assistant)
    assert build_parts(student, World.alone()).student.num_layers == 1


def test_parameters_of_the_joint_phase_are_those_of_the_student(parts_of: Callable[..., TrialParts]) -> None:
    """Candidates that are trained beside each other, at the sum of their sizes."""
    parts = parts_of("amd", layers=3)
    trainable = [one for one in parts.student.parameters() if one.requires_grad]
    assert {id(one) for one in parts.optimizer.parameters} == {id(one) for one in trainable}
    assert {id(one) for twin in parts.trainer.structure.variants.values() for one in twin.parameters()} <= {
        id(one) for one in parts.student.parameters()
    }


def test_parameters_of_the_joint_phase_are_the_teachers_at_its_depth(parts_of: Callable[..., TrialParts]) -> None:
    """What the supernet is for: four candidates, as deep as the teacher and shallower, are held in no more than the teacher is."""
    parts = parts_of("amd", layers=4, training={"trim_vocabulary": False})
    assert parts.config.teacher is not None
    teacher = load_model(parts.config.teacher.path)
    depths = [twin.num_layers for twin in parts.trainer.structure.variants.values()]
    assert sorted({*depths, parts.student.num_layers}) == [1, 2, 3, 4]
    held = {
        id(one): one.numel()
        for model in (parts.student, *parts.trainer.structure.variants.values())
        for one in model.parameters()
    }
    held |= {id(one): one.numel() for one in parts.optimizer.parameters}
    assert sum(held.values()) == sum(one.numel() for one in teacher.parameters())


def test_candidate_equal_to_its_teacher_has_nothing_to_learn_from_it(parts_of: Callable[..., TrialParts]) -> None:
    """T3, of the deepest candidate; those that end earlier are not their teacher, and do learn."""
    parts = parts_of("amd", layers=4, init="teacher", training={"remember_teacher": False})
    trainer, teacher = parts.trainer, parts.trainer.teacher
    parts.student.eval()
    with torch.no_grad():
        parts.student.log_inverse_temperature.copy_(teacher.model.log_inverse_temperature)  # type: ignore[attr-defined]
    batch = trainer.builder.build(next(iter(trainer.source.batches(0))))
    shallower = trainer.losses(batch, 0)
    trainer.terms = tuple(replace(term, inner=()) for term in trainer.terms)  # type: ignore[type-var]
    values = trainer.losses(batch, 0)
    assert values.keys() == {"ce", "kl", "feature"}
    for name in ("kl", "feature"):
        assert shallower[name] > 1e-3
        assert values[name].item() == pytest.approx(0, abs=1e-9)
        found = torch.autograd.grad(
            values[name], parts.optimizer.parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        assert max(float(gradient.abs().max()) for gradient in found) < 1e-6


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_terms_are_the_means_over_models_that_stand_alone(
    parts_of: Callable[..., TrialParts], kind: str, pooling: str
) -> None:
    """Candidates compared by their token states with a teacher's vectors, one that counts twice, or one whose negatives are another's."""
    encoder = {"kind": kind, "pooling": pooling}
    nested = parts_of("amd", layers=3, encoder=encoder, contrastive={"self_negatives": True})
    [triples, *_] = nested.trainer.source.batches(0)
    batch = nested.trainer.builder.build(triples)
    found, expected = nested.trainer.losses(batch, 0), dict[str, list[torch.Tensor]]()
    for depth in (1, 2, 3):
        alone = parts_of("amd", layers=3, encoder=encoder, contrastive={"self_negatives": True})
        cut_off(alone.student, depth)
        terms = [term.term for term in alone.trainer.terms]  # type: ignore[attr-defined]
        alone.trainer.terms = tuple(terms)
        alone.trainer._wanted["clean"] = replace(alone.trainer._wanted["clean"], student=terms[0].student_needs)
        for name, value in alone.trainer.losses(batch, 0).items():
            expected.setdefault(name, []).append(value)
    assert found.keys() == expected.keys() == {"ce", "kl", "feature"}
    for name, values in expected.items():
        assert len({value.item() for value in values}) == 3
        torch.testing.assert_close(found[name], torch.stack(values).mean(), atol=1e-6, rtol=1e-5)


def test_losses_of_candidates_are_noted(trained: list[EpochReport]) -> None:
    """A mean that hides a candidate which learns nothing."""
    metrics = trained[0].metrics
    assert {f"{name}/layers{depth}" for name in ("ce", "kl", "feature") for depth in (1, 2)} <= metrics.keys()


def test_vectors_of_earlier_batches_are_no_negatives_of_shallower_candidates(
    parts_of: Callable[..., TrialParts],
) -> None:
    """A candidate that learns to tell its own vectors from those of another model."""
    values = []
    for extras in ({}, {"pre_batch": 2, "pre_batch_weight": 1.0}):
        parts = parts_of("amd", layers=2, contrastive=extras, training={"learning_rate": 1e-9, "batch_size": 3})
        list(parts.trainer.run_epoch())
        values.append(parts.trainer.averages())
    plain, extra = values
    assert extra["ce/layers1"] == pytest.approx(plain["ce/layers1"], rel=1e-5)
    assert extra["loss/ce"] > plain["loss/ce"] + 1e-3


def test_candidates_that_are_named_are_those_that_compete(
    trial_config: Config, teacher_checkpoint: Callable[..., Path], train: Train, tmp_path: Path
) -> None:
    """Depths or a student that the configuration names in vain."""
    method = {"name": "amd", "depths": [3, 1], "student_layers": 1, "feature": 0}
    config = trial_config(layers=3, method=method, teacher=teacher_checkpoint(), training={"epochs": 1})
    [report] = train(config, tmp_path)
    assert {key for key in report.metrics if key.endswith("/mrr") and "layers" in key} == {
        "valid/layers1/mrr",
        "valid/layers3/mrr",
    }
    record = read_record(str(report.checkpoint))
    assert (record["layers"], record["reshaping"][0]["candidates"][0]["reason"]) == (3, "not larger than the student")
    assert "loss/feature" not in report.metrics


def test_narrow_candidates_compete_and_the_one_that_wins_is_stored_as_it_was_measured(
    config_of: Config, trial_config: Config, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A width that is trained, measured, or stored as another; candidates without their own training, or a choice that one of them cannot win."""
    changes = {"layers": 2, "layer_map": (0, 3), "encoder": {"dropout": 0.1}, "training": {"epochs": 2}}
    method = AssistantSection(depths=(2,), intermediate=(8, 20), student_layers=0)
    config = config_of("amd", **changes).model_copy(update={"method": method})
    original = Assistants.after_validation

    def favouring(self: Assistants, student: Any, measured: Any, last: bool, teacher: Any) -> Any:
        wished = {name: 0.9 if name == "layers2-intermediate20" else 0.1 for name in measured}
        return original(self, student, wished, last, teacher)

    monkeypatch.setattr(Assistants, "after_validation", favouring)
    report = train(config, tmp_path)[-1]
    assert report.checkpoint is not None
    model, [said] = load_model(report.checkpoint), read_record(report.checkpoint)["reshaping"]
    assert {encoder.config.intermediate_size for encoder in (model.query_encoder, model.entity_encoder)} == {20}  # type: ignore[union-attr]
    assert [one.get("intermediate") for one in said["candidates"]] == [8, 20, None]
    assert (said["intermediate"], said["chosen_intermediate"]) == ([8, 20], 20)
    assert (
        checkpoint_size(report.checkpoint)[0]
        == said["candidates"][1]["parameters"]
        < said["candidates"][2]["parameters"]
    )
    measured = evaluate_checkpoint(report.checkpoint, config.data.path, "valid").metrics
    for key, value in measured.items():
        assert report.metrics[key] == pytest.approx(value, abs=1e-6), key
    again = train(config, tmp_path)[-1]
    assert (again.digest, again.finished) == (report.digest, True)
    below = trial_config(layers=1, init="teacher", layer_map="first", teacher=Path(report.checkpoint))
    assert build_parts(below, World.alone()).student.query_encoder.config.intermediate_size == 20  # type: ignore[union-attr]
    assert (
        len({report.metrics[f"valid/layers2{width}/mrr"] for width in ("", "-intermediate20", "-intermediate8")}) == 3
    )


def test_training_too_short_for_all_widths_is_refused(config_of: Config) -> None:
    """A candidate that competes as it began."""
    method = AssistantSection(depths=(3,), intermediate=tuple(range(1, 12)), student_layers=0)
    config = config_of("amd", layers=3, training={"epochs": 1}).model_copy(update={"method": method})
    with pytest.raises(CapabilityError, match="candidates of 12 widths, of which each step trains one"):
        build_parts(config, World.alone())


@pytest.mark.parametrize("when", ["before the choice", "after it"])
def test_trial_killed_at_its_end_chooses_the_same_narrow_candidate(
    config_of: Config, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A student that was narrowed already and is narrowed again, or one that goes on with the wrong width."""
    config = config_of("amd, narrower", layers=3, encoder={"dropout": 0.1}, training={"epochs": 2})
    original, dies = Assistants.after_validation, list[bool]()

    class KilledError(Exception):
        pass

    def favouring(self: Assistants, student: Any, measured: Any, last: bool, teacher: Any) -> Any:
        wished = {name: 0.9 if name == "layers2-intermediate12" else 0.1 for name in measured}
        struck = bool(last and dies)
        answer = None if struck and when == "before the choice" else original(self, student, wished, last, teacher)
        if struck:
            dies.clear()
            raise KilledError
        return answer

    monkeypatch.setattr(Assistants, "after_validation", favouring)
    expected = train(config, tmp_path / "whole")[-1]
    dies.append(True)
    with pytest.raises(KilledError):
        list(run_trial(config, tmp_path / "killed", World.alone()))
    found = train(config, tmp_path / "killed")[-1]
    assert found.digest == expected.digest
    assert found.metrics["student/intermediate"] == 12
