from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.config.trial import TrialConfig
from raydistill.data.batches import BatchBuilder
from raydistill.errors import CapabilityError
from raydistill.models.pretrained import locate_encoder
from raydistill.teachers.cache import CachedTeacher
from raydistill.teachers.views import LiveTeacher, NoTeacher
from raydistill.training import teaching
from raydistill.training.checkpoint import load_model
from raydistill.training.gather import World
from raydistill.training.parts import TrialParts, build_parts

Make = Callable[..., TrialParts]


def layer(model: torch.nn.Module, tower: str, number: int) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = getattr(model, tower).encoder.layer[number].state_dict()
    return state


def test_student_starts_from_the_pretrained_layers_or_from_its_teachers(
    parts_of: Make, teacher_checkpoint: Callable[..., Path]
) -> None:
    """`init: teacher` that starts from the pre-trained encoder all the same, or the other way round."""
    teacher = load_model(teacher_checkpoint())
    for init, equal in (("teacher", True), ("pretrained", False)):
        student = parts_of("kl", init=init, layer_map=(0, 3)).student
        for tower in ("query_encoder", "entity_encoder"):
            for number, source in ((0, 0), (1, 3)):
                theirs = layer(teacher, tower, source)
                same = [torch.equal(tensor, theirs[name]) for name, tensor in layer(student, tower, number).items()]
                assert all(same) == equal


def test_trimmed_and_whole_vocabulary_train_the_same_model(parts_of: Make) -> None:
    """A saving of memory that changes the result."""
    finals = []
    for trim in (True, False):
        parts = parts_of("pmd", training={"trim_vocabulary": trim, "weight_decay": 0.0})
        list(parts.trainer.run_epoch())
        finals.append((parts.trainer.averages(), dict(parts.student.named_parameters())))
    for key, value in finals[0][0].items():
        if key not in ("seconds", "examples_per_second"):
            assert value == pytest.approx(finals[1][0][key], rel=1e-4), key
    small, whole = (finals[i][1]["query_encoder.embeddings.word_embeddings.weight"] for i in (0, 1))
    assert small.shape[0] < whole.shape[0]


@pytest.mark.parametrize(
    ("name", "changes", "kind"),
    [
        ("none", {}, NoTeacher),
        ("none", {"init": "teacher"}, LiveTeacher),
        ("pmd", {"view": "separate"}, CachedTeacher),
        ("pmd", {"view": "shared"}, LiveTeacher),
        ("pmd", {"view": "shared", "mask_ratio": 0.0}, CachedTeacher),
        ("kl", {"training": {"remember_teacher": False}}, LiveTeacher),
        ("tinybert", {}, CachedTeacher),
        ("tinybert", {"training": {"remember_states": 0}}, LiveTeacher),
        ("tinybert", {"training": {"remember_teacher": False}}, LiveTeacher),
        ("pmd", {"view": "shared", "training": {"corruptions": 2}}, CachedTeacher),
        ("pmd", {"view": "shared", "training": {"corruptions": 2, "remember_teacher": False}}, LiveTeacher),
    ],
)
def test_teacher_is_remembered_where_its_texts_are_clean(
    parts_of: Make, name: str, changes: dict[str, str], kind: type
) -> None:
    """A memory of clean texts beside masked ones, which it never answers; or a teacher encoded anew every epoch."""
    assert type(parts_of(name, **changes).trainer.teacher) is kind


def test_states_are_kept_as_far_as_there_is_room(parts_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that is none, or that is held by the kept states and not by how many are computed at once; here one text at a time."""
    whole = parts_of("tinybert")
    assert isinstance(whole.trainer.teacher, CachedTeacher)
    [view] = whole.trainer.teacher._views
    assert view.texts_at_once > 1000
    triples = whole.trainer.source.triples
    assert triples is not None
    tokens = sum(len(texts.tokens) for texts in whole.trainer.builder.all_texts(triples))
    # Embeddings, two layers' states, and what two attentions are computed from; 16 units of four bytes.
    needed = 4 * 16 * (1 + 2 + 2 * 3) * tokens
    monkeypatch.setattr(teaching, "MIB", 1)
    teachers = [parts_of("tinybert", training={"remember_states": size}) for size in (needed, needed - 1)]
    small, live = (parts.trainer.teacher for parts in teachers)
    assert isinstance(small, CachedTeacher)
    assert isinstance(live, LiveTeacher)
    assert [view.texts_at_once for view in small._views] == [1]
    batch = whole.trainer.builder.build(next(whole.trainer.source.batches(0)))
    expected = whole.trainer.losses(batch, 0)
    for parts in teachers:
        for term, value in parts.trainer.losses(batch, 0).items():
            torch.testing.assert_close(value, expected[term], atol=1e-5, rtol=1e-5)
    # What is far too much is told without the texts, which of a large graph take longer, and more memory, than their states may.
    monkeypatch.setattr(BatchBuilder, "all_texts", None)
    assert isinstance(parts_of("tinybert", training={"remember_states": 9}).trainer.teacher, LiveTeacher)


@pytest.mark.parametrize("name", ["pmd", "kl", "pkd", "tinybert", "minilm", "mgsr", "dq", "pmd+tinybert", "homodistil"])
@pytest.mark.parametrize(
    "changes", [{}, {"training": {"corruptions": 2}}, {"view": "shared", "training": {"corruptions": 2}}]
)
def test_remembered_teacher_teaches_what_the_live_one_teaches(
    parts_of: Make, name: str, changes: dict[str, Any]
) -> None:
    """Outputs remembered under the wrong text, or fetched for the wrong row."""
    ways = (
        {**changes, "training": {**changes.get("training", {}), "remember_teacher": flag}} for flag in (True, False)
    )
    remembered, live = (parts_of(name, **way) for way in ways)
    for epoch in (0, 1, 2):
        remembered.trainer.progress.epoch = live.trainer.progress.epoch = epoch
        for triples in live.trainer.source.batches(0):
            batch = live.trainer.builder.build(triples)
            expected = live.trainer.losses(batch, 0)
            for term, value in remembered.trainer.losses(batch, 0).items():
                torch.testing.assert_close(value, expected[term], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("kl", {}),
        ("dq", {}),
        ("pmd+tinybert", {"view": "separate", "training": {"corruptions": 2}}),
        ("pmd", {"training": {"corruptions": 2}}),
        ("pmd", {"view": "shared", "training": {"corruptions": 1}, "contrastive": {"self_negatives": True}}),
    ],
)
def test_every_training_text_is_remembered(
    parts_of: Make, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any]
) -> None:
    """A text of some batch that was forgotten: the teacher runs every epoch after all, without a sign."""
    for max_tokens in (12, 20, 64):
        parts = parts_of(name, data={"max_tokens": max_tokens}, **changes)
        teacher = parts.trainer.teacher
        assert isinstance(teacher, CachedTeacher)
        teacher.at_epoch(0)
        monkeypatch.setattr(teacher.live, "encode", None)
        for epoch in range(3):
            for triples in parts.trainer.source.batches(epoch):
                parts.trainer.losses(parts.trainer.builder.build(triples), 0)


def test_encoder_and_tokenizer_may_pad_with_different_tokens(
    trial_config: Callable[..., TrialConfig], bert_folder: Path, tmp_path: Path
) -> None:
    """An encoder that pads with a token whose row was trimmed away."""
    folder = Path(shutil.copytree(bert_folder, tmp_path / "encoder"))
    content = json.loads((folder / "config.json").read_text())
    config = trial_config()
    unused = min(
        set(range(content["vocab_size"]))
        - set(build_parts(config, World.alone()).assembler.token_ids().tolist())
        - {0, 4}
    )
    (folder / "config.json").write_text(json.dumps({**content, "pad_token_id": unused}))
    config = config.model_copy(
        update={
            "encoder": config.encoder.model_copy(update={"name": str(folder)}),
            "encoder_fingerprint": locate_encoder(str(folder)).fingerprint,
        }
    )
    parts = build_parts(config, World.alone())
    kept = parts.student.query_encoder.embeddings.word_embeddings.kept  # type: ignore[union-attr]
    assert unused not in parts.assembler.token_ids()
    assert unused in kept
    list(parts.trainer.run_epoch())
    assert math.isfinite(parts.trainer.averages()["loss"])


def test_method_with_a_teacher_but_without_a_checkpoint_is_refused(parts_of: Make) -> None:
    """A distillation from nothing."""
    parts = parts_of("kl", teacher=None)
    with pytest.raises(CapabilityError, match="without a teacher"):
        next(parts.trainer.run_epoch())


def test_temperature_of_the_configuration_is_where_training_starts(parts_of: Make) -> None:
    """Logits twenty times too flat for the first epochs."""
    parts = parts_of("none", contrastive={"temperature": 0.1, "train_temperature": False})
    assert parts.student.inverse_temperature.item() == pytest.approx(10.0)
    assert "log_inverse_temperature" not in dict(parts.optimizer.named)
    assert "log_inverse_temperature" in dict(parts_of("none").optimizer.named)
