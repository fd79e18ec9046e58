"""What is encoded without gradient and runs out of memory, the teacher's pass over the training texts and validation: done again, or refused."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.config.trial import TrialConfig
from raydistill.data.texts import Texts
from raydistill.errors import OutOfMemoryError
from raydistill.models.biencoder import BiEncoder
from raydistill.teachers.cache import CachedTeacher
from raydistill.training.gather import World
from raydistill.training.parts import TrialParts

sys.path.insert(0, str(Path(__file__).parent))
from worker import SMALL_STEPS, VALIDATE, out_of_memory_at, run_workers, validated

Make = Callable[..., TrialParts]
Room = Callable[[BiEncoder, int], list[int]]


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    """Let a model encode no more than so many tokens at a time: `room(model, 32)`; the sizes of its parts are returned."""

    def apply(model: BiEncoder, tokens: int) -> list[int]:
        original, sizes = BiEncoder.encode_part, []

        def encode_part(self: BiEncoder, texts: Texts, tower: Any, needs: Any) -> Any:
            if self is model:
                size = int(texts.lengths.sum())
                if size > tokens:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
                sizes.append(size)
            return original(self, texts, tower, needs)

        monkeypatch.setattr(BiEncoder, "encode_part", encode_part)
        return sizes

    return apply


def teacher_of(parts: TrialParts) -> BiEncoder:
    assert isinstance(parts.trainer.teacher, CachedTeacher)
    return parts.trainer.teacher.live.model


def test_teachers_pass_that_does_not_fit_is_done_again(
    parts_of: Make, room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    """A trial that ends before its first step, because its teacher is the larger model; or one that pays for a gradient cache ever after."""
    plain, parts = (parts_of("pmd", view="separate", training=SMALL_STEPS) for _ in range(2))
    list(plain.trainer.run_epoch())
    sizes = room(teacher_of(parts), 32)
    with caplog.at_level(logging.WARNING, "raydistill"):
        list(parts.trainer.run_epoch())
    expected = plain.trainer.averages()
    for key, value in parts.trainer.averages().items():
        if key not in ("seconds", "examples_per_second"):
            assert value == pytest.approx(expected[key], rel=1e-4, abs=1e-5), key
    assert 0 < max(sizes) <= 32
    assert parts.student.tokens_per_micro_batch == teacher_of(parts).tokens_per_micro_batch == 32
    assert not parts.trainer.memory.cached
    [record] = [record for record in caplog.records if "out of memory" in record.message]
    assert "the teacher's pass over the training texts is done again with 32 instead of 64 tokens" in record.message


def test_teacher_that_comes_later_begins_in_parts_that_fitted(parts_of: Make, room: Room) -> None:
    """Every new teacher of a pipelined ladder that runs out of memory once more, in the parts that were too large for the one before."""
    parts = parts_of("kl")
    assert parts.config.teacher is not None
    parts.student.tokens_per_micro_batch = 32
    parts = parts.taught_by(parts.config.teacher)
    sizes = room(teacher_of(parts), 1000)
    next(parts.trainer.run_epoch())
    assert 0 < max(sizes) <= 32


def test_validation_that_does_not_fit_is_done_again(parts_of: Make, room: Room) -> None:
    """A trial that ends after hours of an epoch, because a validation in float32 needs more than training in bfloat16."""
    training = {"precision": "bf16"}
    expected = parts_of("none", training=training).validate()
    parts = parts_of("none", training=training)
    parts.student.train()
    sizes = room(parts.student, 32)
    assert parts.validate() == pytest.approx(expected, nan_ok=True)
    assert 0 < max(sizes) <= 32
    assert parts.student.tokens_per_micro_batch == 32
    assert parts.student.precision == "bf16"
    assert parts.student.training


def begin(parts: TrialParts) -> None:
    next(parts.trainer.run_epoch())


def validate(parts: TrialParts) -> None:
    parts.validate()


@pytest.mark.parametrize(
    ("way", "says"),
    [("never", r"set training\.gradient_cache to auto.*--resume"), ("auto", "one text of 32 tokens")],
)
@pytest.mark.parametrize(
    ("work", "name"), [(begin, "the teacher's pass"), (validate, "a validation")], ids=["teacher", "validation"]
)
def test_what_cannot_be_done_again_is_refused_with_the_way_out(
    parts_of: Make, room: Room, way: str, says: str, work: Callable[[TrialParts], None], name: str
) -> None:
    """A traceback from inside an allocator, halving for ever, or an advice that does not help."""
    parts = parts_of("kl", training={"gradient_cache": way})
    room(teacher_of(parts) if work is begin else parts.student, 4)
    with pytest.raises(OutOfMemoryError, match=says) as refused:
        work(parts)
    error = refused.value
    assert error.received.startswith(name)
    assert all((error.expected, error.consequence, error.remedy))
    assert "Tried to allocate 2.00 GiB" in error.received


def test_other_failures_of_a_validation_are_not_tried_again(parts_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that is reported as too little memory, after a validation of hours for each halving."""
    parts, calls = parts_of("none"), []

    def encode_part(self: BiEncoder, texts: Texts, tower: Any, needs: Any) -> Any:
        calls.append(tower)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(BiEncoder, "encode_part", encode_part)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        parts.validate()
    assert len(calls) == 1


@pytest.mark.slow
def test_workers_validate_again_together(config_of: Callable[..., TrialConfig], tmp_path: Path) -> None:
    """One worker that waits for ever for what another has no memory to encode; or micro-batches dealt out by two sizes, so that texts are left out."""
    config = config_of("none")
    failing: list[dict[str, list[int]]] = [{"1": [0]}, {"0": [1]}, {"0": [0], "1": [0]}]
    found = run_workers(tmp_path, [(config, VALIDATE, calls) for calls in failing], 2)
    with out_of_memory_at([0]):
        alone = validated(config, World.alone())
    assert alone["tokens"] == 32
    for first, second in zip(*found, strict=True):
        assert first == second == alone
