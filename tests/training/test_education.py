"""A trial whose student grows while the graph opens: what is taught when, what comes of it, and that it can be taken up at any step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.data.groups import RelationGroups
from raydistill.errors import CapabilityError, CheckpointError
from raydistill.evaluation import encode
from raydistill.kg.store import Dataset
from raydistill.training.checkpoint import load_model, newest_good, read_record
from raydistill.training.evaluate import evaluate_checkpoint
from raydistill.training.gather import World
from raydistill.training.manifest import verify_checkpoint
from raydistill.training.parts import build_parts
from raydistill.training.terms import sliced
from raydistill.training.terms.sliced import SlicedDivergenceTerm
from raydistill.training.trial import EpochReport

Make = Callable[..., Any]
Train = Callable[..., list[EpochReport]]
SCHOOL = {"name": "education", "stages": 3, "temperature": 3.0}
FIVE = {"epochs": 5, "checkpoint_steps": 1, "batch_size": 5}
"""Six steps per epoch, two for each part; stages begin with the epochs 1, 2 and 4, so growth comes after steps 5 and 17, counted from 0."""


@pytest.fixture
def school(trial_config: Make, teacher_checkpoint: Callable[..., Path]) -> Callable[..., TrialConfig]:
    """A trial of three layers in three stages; what its method says, and sections, may differ."""

    def make(method: dict[str, Any] | None = None, **changes: Any) -> TrialConfig:
        settings = {"encoder": {"dropout": 0.1}, "training": FIVE, "layers": 3, "teacher": teacher_checkpoint()}
        config: TrialConfig = trial_config(method={**SCHOOL, **(method or {})}, **{**settings, **changes})
        return config

    return make


def test_rows_are_taught_under_their_parts_columns_alone(
    school: Make, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of a part that is not open yet, or one that is taught among another part's candidates."""
    parts = build_parts(school(), World.alone())
    term = parts.trainer.terms[1]
    assert isinstance(term, SlicedDivergenceTerm)
    answers: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    for head, relation, tail in dataset.train.tolist():
        answers[int(term.groups.of_relation[relation])] |= {head, tail}
    seen: list[tuple[int, int]] = []
    original, batches = sliced.sliced_divergence, []

    def spy(student: Tensor, teacher: Tensor, valid: Tensor, in_slice: Tensor, *, temperature: float) -> Any:
        batch, epoch = batches[-1], parts.trainer.progress.epoch
        for row, relation in enumerate(batch.relations.tolist()):
            group = int(term.groups.of_relation[relation])
            seen.append((epoch, group))
            wanted = [entity in answers[group] for entity in batch.column_entities.tolist()]
            assert in_slice[row].tolist() == wanted
        return original(student, teacher, valid, in_slice, temperature=temperature)

    build = parts.trainer.builder.build

    def built(triples: Any, extra: Any = None) -> Any:
        batches.append(build(triples, extra))
        return batches[-1]

    monkeypatch.setattr(parts.trainer.builder, "build", built)
    monkeypatch.setattr(sliced, "sliced_divergence", spy)
    for _ in range(5):
        list(parts.trainer.run_epoch())
    opened = [{group for epoch, group in seen if epoch == number} for number in range(5)]
    assert opened == [{0}, {0, 1}, {0, 1}, {0, 1, 2}, {0, 1, 2}]


def test_batch_of_several_parts_is_sliced_row_by_row(school: Make, dataset: Dataset) -> None:
    """With batches of one part each no column is outside: whether the slice works at all shows on a mixed one."""
    parts = build_parts(school(), World.alone())
    term, source = parts.trainer.terms[1], parts.trainer.source
    assert isinstance(term, SlicedDivergenceTerm)
    assert source.triples is not None
    batch = parts.trainer.builder.build(source.triples)
    slices = term.slices(batch)
    assert slices[torch.arange(len(batch)), batch.columns].all()
    assert len({tuple(row) for row in slices.tolist()}) > 1
    assert not slices.all()
    with torch.no_grad():
        before = parts.trainer.losses(batch, 0)["sliced"]
        plain = SlicedDivergenceTerm(
            1.0, term.temperature, RelationGroups(term.groups.of_relation, np.ones_like(term.groups.answers))
        )
        parts.trainer.terms = (plain,)
        assert parts.trainer.losses(batch, 0)["sliced"] != before


def test_one_stage_is_logit_distillation(
    school: Make, trial_config: Make, teacher_checkpoint: Callable[..., Path], train: Train, tmp_path: Path
) -> None:
    """One group, one stage, alpha 0.3: the loss is that of `logits`, to 1e-7, and so are all weights that come of it."""
    one = school({"stages": 1, "alpha": 0.3})
    plain = {"name": "logits", "alpha": 0.7, "temperature": 3.0}
    same = trial_config(method=plain, layers=3, teacher=teacher_checkpoint(), training=FIVE, encoder={"dropout": 0.1})
    values = []
    for config in (one, same):
        parts = build_parts(config, World.alone())
        triples = next(iter(parts.trainer.source.batches(0)))
        found = parts.trainer.losses(parts.trainer.builder.build(triples), 0)
        values.append(sum(term.weight * found[term.name] for term in parts.trainer.terms))
    torch.testing.assert_close(values[0], values[1], atol=1e-7, rtol=0)
    last = [train(config, tmp_path / str(number))[-1] for number, config in enumerate((one, same))]
    states = [load_model(str(report.checkpoint)).state_dict() for report in last]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


CHANGES: dict[str, dict[str, Any]] = {
    "two towers": {},
    "shared towers": {"encoder": {"dropout": 0.1, "shared_towers": True}},
    "bfloat16": {"training": {**FIVE, "precision": "bf16"}},
    "roberta from its teacher": {"encoder": {"dropout": 0.1, "kind": "roberta"}, "init": "teacher"},
}


CUTS = [("two towers", step) for step in (5, 6, 7, 17, 18, 29)] + [
    (name, step) for name in list(CHANGES)[1:] for step in (6, 19)
]


@pytest.mark.parametrize(("name", "step"), CUTS)
def test_growth_is_resumed_bit_identically(
    school: Make, teacher_checkpoint: Callable[..., Path], train: Train, interrupt: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory, straight: dict[str, str], name: str, step: int,
) -> None:  # fmt: skip
    """Before, at and after a growth: a stage begun twice or not at all, waiting layers of other weights, moments or a block forgotten."""
    changes = dict(CHANGES[name])
    changes["teacher"] = teacher_checkpoint(changes.get("encoder", {}).get("kind", "bert"))
    config = school(**changes)
    if name not in straight:
        straight[name] = str(train(config, tmp_path_factory.mktemp("straight"))[-1].digest)
    folder = tmp_path_factory.mktemp("cut")
    interrupt(config, folder, step)
    kept = newest_good(folder / "checkpoints")
    assert kept is not None
    [record] = read_record(kept)["reshaping"]
    # The step before a stage has changed the student already when its checkpoint is written.
    assert record["stage"] == sum(step >= first for first in (6, 18))
    assert train(config, folder)[-1].digest == straight[name]


@pytest.fixture(scope="module")
def straight() -> dict[str, str]:
    """Digests of trials that nothing interrupted, by what of them differs."""
    return {}


def test_waiting_layers_are_those_of_the_first_teacher(
    school: Make, trial_config: Make, train: Train, interrupt: Callable[..., None], teacher_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    """A student that began as its teacher is rebuilt from the teacher of the moment: its upper layers would come from another one than its lower ones."""
    second = train(trial_config(layers=4, training={"epochs": 2}), tmp_path / "teacher")[-1]
    teachers = [
        TeacherReference(path=str(path), digest=digest)
        for path, digest in (
            (teacher_checkpoint(), verify_checkpoint(teacher_checkpoint())),
            (second.checkpoint, str(second.digest)),
        )
    ]
    stand_in = TeacherReference(path="", digest="main, grade 0")
    config = school(init="teacher").model_copy(update={"teacher": stand_in, "settle_epochs": 1})

    def teacher_at(epoch: int) -> TeacherReference:
        return teachers[epoch >= 1]

    expected = train(config, tmp_path / "straight", teacher_at)
    interrupt(config, tmp_path / "cut", 8, teacher_at)
    assert train(config, tmp_path / "cut", teacher_at)[-1].digest == expected[-1].digest


def test_final_checkpoint_is_a_plain_students(
    school: Make, trial_config: Make, train: Train, dataset_folder: Path, tmp_path: Path
) -> None:
    """Keys of a block in a checkpoint, or a student that can be neither loaded, asked, nor learned from."""
    config = school()
    reports = train(config, tmp_path / "school")
    final = Path(str(reports[-1].checkpoint))
    plain = train(trial_config(layers=3, training={"epochs": 1}), tmp_path / "plain")[-1]
    model, other = load_model(final), load_model(str(plain.checkpoint))
    assert model.state_dict().keys() == other.state_dict().keys()
    assert model.num_layers == read_record(final)["layers"] == 3
    assert read_record(final)["reshaping"] == [
        {"name": "growth", "complete": True, "stage": 2, "layers": 3, "taught": True}
    ]
    measured = evaluate_checkpoint(final, dataset_folder, "valid").metrics["valid/both/mrr"]
    assert measured == pytest.approx(reports[-1].metrics["valid/both/mrr"], abs=1e-6)
    below = train(school({"stages": 2}, layers=2, teacher=final, init="teacher"), tmp_path / "below")
    assert below[-1].metrics["valid/both/mrr"] > 0


def test_student_that_still_grows_is_measured_and_never_promoted(school: Make, train: Train, tmp_path: Path) -> None:
    """A fragment taken for the student that was asked for, or one that has just got its last layers and has not learned with them."""
    reports = train(school(training={**FIVE, "keep_checkpoints": 9}), tmp_path)
    whole = ["valid/both/mrr" in report.metrics for report in reports]
    assert whole == [False, False, False, True, True]
    assert all(
        ("unfinished/valid/both/mrr" in report.metrics) is not able for report, able in zip(reports, whole, strict=True)
    )
    best = max(reports[3:], key=lambda report: report.metrics["valid/both/mrr"])
    fragments = [path for path in (tmp_path / "checkpoints").iterdir() if path.name < "00000024"]
    for path in fragments:
        with pytest.raises(CheckpointError, match="shape was changing"):
            load_model(path)
    assert Path(str(best.checkpoint)).exists()


def test_what_cannot_be_done_is_refused_before_the_first_step(school: Make) -> None:
    """Stages of nothing: a trial that is asked for directly meets no preflight."""
    for changes, match in (
        ({"layers": 2}, "stages is 3, and the student has 2 layers"),
        ({"training": {**FIVE, "epochs": 2}}, "would begin with the epochs 1, 1, 2"),
    ):
        with pytest.raises(CapabilityError, match=match):
            build_parts(school(**changes), World.alone())
    with pytest.raises(CapabilityError, match="5 parts of the relations of a graph that has 4"):
        build_parts(
            school({"stages": 5}, layers=6, encoder={"depth": 6}, training={**FIVE, "epochs": 9}), World.alone()
        )


def test_every_validation_tells_the_parts_apart(school: Make, dataset: Dataset) -> None:
    """What becomes of the first part while others are learnt: one number for all of the graph hides it, and so does a part that has another's queries."""
    parts = build_parts(school(), World.alone())
    term = parts.trainer.terms[1]
    assert isinstance(term, SlicedDivergenceTerm)
    for split in ("valid", "train"):
        task = encode.link_prediction_task(dataset, split)
        whole = encode.evaluate(parts.student, parts.assembler, task)
        expected: dict[str, list[float]] = {}
        for place, relation in enumerate(task.relations.tolist()):
            # An inverse relation is in its relation's part.
            part = int(term.groups.of_relation[relation % dataset.num_relations])
            rank = whole.ranks.realistic[place].item()
            expected.setdefault(f"unfinished/{split}/part{part + 1}/mrr", []).append(1 / rank)
        found = replace(parts, task=task).validate()
        told = {name: value for name, value in found.items() if "/part" in name}
        assert told == {name: pytest.approx(sum(values) / len(values)) for name, values in expected.items()}
    assert len(expected) == 3


def test_parts_are_named_as_the_student_is(school: Make, train: Train, tmp_path: Path) -> None:
    """Numbers of a fragment taken for those of the student."""
    reports = train(school(), tmp_path)
    for report in reports:
        start = "" if "valid/both/mrr" in report.metrics else "unfinished/"
        told = {name for name in report.metrics if "/part" in name}
        assert told
        assert all(name.startswith(f"{start}valid/part") for name in told)


def test_forgetting_can_be_told(school: Make, dataset: Dataset) -> None:
    """MRR of the first part after the last stage, with rehearsal and without: what the parts are for, and nobody could say what they cost."""
    found = {}
    for rehearsal in (True, False):
        parts = build_parts(school({"rehearsal": rehearsal}, training={**FIVE, "epochs": 20}), World.alone())
        for _ in range(20):
            list(parts.trainer.run_epoch())
        found[rehearsal] = replace(parts, task=encode.link_prediction_task(dataset, "train")).validate()
    # The last part's rows come again and again where the others do not.
    assert found[True]["train/part1/mrr"] > found[False]["train/part1/mrr"]
    assert found[True]["train/part3/mrr"] != found[False]["train/part3/mrr"]
