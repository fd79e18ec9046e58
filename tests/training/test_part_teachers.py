"""A student that grows while each part of the graph has a teacher of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.data.texts import Texts
from raydistill.errors import CapabilityError
from raydistill.kg.prepare import prepare
from raydistill.kg.store import Dataset
from raydistill.kg.triples import SPLITS
from raydistill.models.features import Needs
from raydistill.teachers.several import TeachersOfParts
from raydistill.teachers.shards import KEPT
from raydistill.teachers.views import LiveTeacher
from raydistill.training.checkpoint import load_model, read_record
from raydistill.training.gather import World
from raydistill.training.manifest import verify_checkpoint
from raydistill.training.parts import build_parts
from raydistill.training.terms import sliced
from raydistill.training.trial import EpochReport

Make = Callable[..., TrialConfig]
Train = Callable[..., list[EpochReport]]
Folder = Callable[..., Path]
FOUR = {"epochs": 4, "checkpoint_steps": 1, "batch_size": 5}
"""Six steps per epoch, two for each part; the last stage begins with the fourth epoch."""
LIVE = {**FOUR, "remember_teacher": False}


def reference(path: Path) -> TeacherReference:
    return TeacherReference(path=str(path), digest=verify_checkpoint(path))


def numbers(report: EpochReport) -> dict[str, float]:
    return {key: value for key, value in report.metrics.items() if key not in ("seconds", "examples_per_second")}


@pytest.fixture
def school(trial_config: Make, teacher_checkpoint: Folder) -> Make:
    """A trial of three parts, whose teachers are two: a wider one, the usual one, and the wider one again."""

    def make(*paths: Path, **changes: Any) -> TrialConfig:
        named = paths or (teacher_checkpoint(width=24), teacher_checkpoint(), teacher_checkpoint(width=24))
        others = [reference(path).model_dump() for path in named]
        method = {"name": "education", "stages": 3, "temperature": 3.0}
        settings = {"encoder": {"dropout": 0.1}, "training": FOUR, "layers": 3, "others": others, **changes}
        return trial_config(method=method, **settings)

    return make


@pytest.mark.parametrize("training", [FOUR, LIVE], ids=["kept", "live"])
def test_rows_are_taught_by_their_parts_teacher_alone(
    school: Make, monkeypatch: pytest.MonkeyPatch, training: dict[str, Any]
) -> None:
    """A part that is taught by another one's teacher, by the grade above, or on another teacher's scale."""
    config = school(training=training)
    parts = build_parts(config, World.alone())
    trainer, source, batches = parts.trainer, parts.trainer.teacher, list[Any]()
    assert isinstance(source, TeachersOfParts)
    alone = [LiveTeacher(load_model(one.path, tokens_per_micro_batch=64)) for one in config.others]
    original, build, seen = sliced.sliced_divergence, trainer.builder.build, set[int]()

    def spy(student: Tensor, teacher: Tensor, valid: Tensor, in_slice: Tensor, *, temperature: float) -> Any:
        batch = batches[-1]
        [group] = set(trainer.source.groups.of_relation[batch.relations].tolist())  # type: ignore[attr-defined]
        one = alone[group]
        queries = one.encode(batch.queries, "query", Needs()).vectors
        columns = one.encode(batch.candidates, "entity", Needs()).vectors[: batch.num_columns]
        torch.testing.assert_close(teacher, (queries @ columns.T)[batch.rows] * one.inverse_temperature)
        seen.add(group)
        return original(student, teacher, valid, in_slice, temperature=temperature)

    def built(triples: Any, extra: Any = None) -> Any:
        batches.append(build(triples, extra))
        return batches[-1]

    monkeypatch.setattr(trainer.builder, "build", built)
    monkeypatch.setattr(sliced, "sliced_divergence", spy)
    for _ in range(4):
        list(trainer.run_epoch())
    assert seen == {0, 1, 2}


def test_teachers_read_the_texts_of_their_parts_alone(school: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every teacher's pass over all training texts, or one more in every step."""
    parts = build_parts(school(), World.alone())
    trainer, source = parts.trainer, parts.trainer.source
    assert source.triples is not None
    read, encode = list[int](), LiveTeacher.encode

    def counted(self: LiveTeacher, texts: Any, *rest: Any) -> Any:
        read.append(len(texts))
        return encode(self, texts, *rest)

    monkeypatch.setattr(LiveTeacher, "encode", counted)
    trainer.prepare()
    owned = [trainer.builder.all_texts(source.triples_of(number)) for number in range(3)]  # type: ignore[attr-defined]
    assert sum(read) == sum(len(texts) for pair in owned for texts in pair)
    queries = len(trainer.builder.all_texts(source.triples)[0])
    assert sum(len(pair[0]) for pair in owned) == queries
    read.clear()
    list(trainer.run_epoch())
    assert read == []
    trainer.teacher.encode_at_most(7)
    teachers = trainer.teacher
    assert isinstance(teachers, TeachersOfParts)
    models = [one.live.model for one in teachers.teachers]  # type: ignore[attr-defined]
    assert {model.tokens_per_micro_batch for model in models} == {7}
    assert models[0] is models[2]
    assert models[0] is not models[1]


def test_usual_teacher_named_for_every_part_teaches_as_ever(
    school: Make, trial_config: Make, teacher_checkpoint: Folder, train: Train, tmp_path: Path
) -> None:
    """Another method as soon as somebody writes down who teaches."""
    usual = teacher_checkpoint()
    named = school(usual, usual, usual, training=LIVE)
    plain = named.model_copy(update={"teacher": reference(usual), "others": ()})
    found = []
    for number, config in enumerate((named, plain)):
        reports = train(config, tmp_path / str(number))
        found.append((list(map(numbers, reports)), load_model(str(reports[-1].checkpoint)).state_dict()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(tensor, found[1][1][name]) for name, tensor in found[0][1].items())


def test_what_is_kept_of_a_teacher_is_kept_for_each_part(
    school: Make, teacher_checkpoint: Folder, train: Train, tmp_path: Path
) -> None:
    """One part's outputs under the name of another's: written again and again by trials that run side by side. Kept and live ones teach alike."""
    kept = train(school(), tmp_path / "grade" / "trials" / "kept")
    live = train(school(training=LIVE), tmp_path / "live")
    assert [numbers(report) for report in kept] == [numbers(report) for report in live]
    folders = {
        path.name: len([view for view in path.iterdir() if view.is_dir()])
        for path in (tmp_path / "grade" / KEPT).iterdir()
        if path.is_dir()
    }
    wide, usual = (reference(teacher_checkpoint(**width)).digest[:16] for width in ({"width": 24}, {}))
    assert folders == {wide: 2, usual: 1}
    assert read_record(str(kept[-1].checkpoint))["taught_beside"] == [one.digest for one in school().others]


@pytest.mark.parametrize("init", ["pretrained", "teacher"])
def test_student_of_part_teachers_is_resumed_bit_identically(
    school: Make, teacher_checkpoint: Folder, train: Train, interrupt: Callable[..., None], tmp_path: Path, init: str
) -> None:
    """A resumed student that goes on under the teacher of another part, or under the one whose layers it began with."""
    config = school(init=init, teacher=teacher_checkpoint() if init == "teacher" else None)
    expected = train(config, tmp_path / "straight")[-1]
    interrupt(config, tmp_path / "cut", 20)
    assert train(config, tmp_path / "cut")[-1].digest == expected.digest


def test_teachers_of_parts_stay_when_the_grade_above_changes(school: Make, teacher_checkpoint: Folder) -> None:
    """A pipelined student that began with its teacher's layers is taught by the next one instead of its parts' teachers."""
    first, second = teacher_checkpoint(), reference(teacher_checkpoint(shared_towers=True))
    parts = build_parts(school(init="teacher", teacher=first), World.alone())
    batch = parts.trainer.builder.build(next(iter(parts.trainer.source.batches(0))))
    before = parts.trainer.losses(batch, 0)["sliced"].detach()
    changed = parts.taught_by(second)
    assert isinstance(changed.trainer.teacher, TeachersOfParts)
    assert np.array_equal(changed.trainer.losses(batch, 0)["sliced"].detach(), before)


def test_teachers_that_were_trained_on_prepared_parts_teach_them(
    dataset: Dataset, trial_config: Make, train: Train, tmp_path: Path
) -> None:
    """A part on which no teacher can be trained, because relations of it have no triple, or whose teacher has not the words of the whole graph."""
    source, keys, names = tmp_path / "source", dataset.entity_keys, dataset.relation_keys
    source.mkdir()
    for split in SPLITS:
        rows = [f"{keys[h]}\t{names[r]}\t{keys[t]}\n" for h, r, t in dataset.split(split).tolist()]
        (source / f"{split}.tsv").write_text("".join(rows), encoding="utf-8")
    teachers = []
    for number in (1, 2):
        part = prepare(source, tmp_path / f"part{number}", part=f"{number}/2")
        data = {"data": {"path": str(part.path), "max_tokens": 32}, "data_fingerprint": part.fingerprint}
        config = trial_config(layers=4, training={"epochs": 1, "trim_vocabulary": True}, **data)
        teachers.append(reference(Path(str(train(config, tmp_path / f"teacher{number}")[-1].checkpoint))))
    config = trial_config(method={"name": "education", "stages": 2}, others=[one.model_dump() for one in teachers])
    last = train(config, tmp_path / "school")[-1]
    assert last.metrics["loss/sliced"] > 0
    assert last.metrics["valid/both/mrr"] > 0


def test_teachers_of_parts_say_nothing_before_they_know_the_part(teacher_checkpoint: Folder) -> None:
    """The first part's teacher, in whose unit all batches are scored."""
    teacher = LiveTeacher(load_model(teacher_checkpoint()))
    with pytest.raises(CapabilityError, match="without the batch"):
        TeachersOfParts([teacher, teacher], lambda batch: 0).encode(
            Texts(*(torch.zeros(0, dtype=torch.int64) for _ in range(4))), "query", Needs()
        )
