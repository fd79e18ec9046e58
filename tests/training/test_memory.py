"""Steps that run out of memory: taken again in smaller parts, or refused; never half taken."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.config.trial import TrialConfig
from raydistill.data.texts import Texts
from raydistill.errors import OutOfMemoryError, TrainingError
from raydistill.models.biencoder import BiEncoder
from raydistill.training.gather import World
from raydistill.training.memory import is_out_of_memory
from raydistill.training.parts import TrialParts

sys.path.insert(0, str(Path(__file__).parent))
from worker import SMALL_STEPS, out_of_memory_at, run_workers, take_steps

Make = Callable[..., TrialParts]
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried ...")


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Give a student little memory: `limit(parts, tokens)` lets it hold graphs of so many padded tokens; the sizes of its parts are returned."""

    def apply(parts: TrialParts, tokens: int, problem: BaseException = CUDA) -> list[int]:
        original, sizes = BiEncoder.encode_part, []
        graphs: list[tuple[weakref.ref[torch.Tensor], int]] = []

        def encode_part(self: BiEncoder, texts: Texts, tower: Any, needs: Any) -> Any:
            if self is not parts.student:
                return original(self, texts, tower, needs)
            size = len(texts) * int(texts.lengths.max())
            held = sum(held for vectors, held in graphs if vectors() is not None)
            if held + size > tokens:
                # A new one each time: an error keeps its traceback, and with it all tensors on the way.
                raise type(problem)(*problem.args)
            sizes.append(size)
            output = original(self, texts, tower, needs)
            if output.vectors.requires_grad:
                graphs.append((weakref.ref(output.vectors), size))
            return output

        monkeypatch.setattr(BiEncoder, "encode_part", encode_part)
        return sizes

    return apply


def gradients_of(parts: TrialParts) -> Iterator[dict[str, torch.Tensor]]:
    """The gradients of each step of an epoch."""
    found: list[dict[str, torch.Tensor]] = []
    step = parts.optimizer.step

    def keep(number: int, unless: torch.Tensor | None = None) -> None:
        found.append({name: p.grad.clone() for name, p in parts.optimizer.named if p.grad is not None})
        step(number, unless)

    parts.optimizer.step = keep  # type: ignore[method-assign]
    for taken in parts.trainer.run_epoch():
        yield found[taken - 1]


@pytest.mark.parametrize("problem", [CUDA, CPU, MemoryError()], ids=["cuda", "cpu allocator", "memory error"])
@pytest.mark.parametrize("way", ["auto", "always"])
def test_step_that_does_not_fit_is_taken_again_in_smaller_parts(
    parts_of: Make,
    limit: Callable[..., list[int]],
    caplog: pytest.LogCaptureFixture,
    way: str,
    problem: BaseException,
) -> None:
    """A trial that dies of one long batch, skips it, or goes on with other gradients."""
    plain = list(gradients_of(parts_of("pmd", view="separate", training=SMALL_STEPS)))
    parts = parts_of("pmd", view="separate", training={**SMALL_STEPS, "gradient_cache": way})
    sizes = limit(parts, 32, problem)
    with caplog.at_level(logging.WARNING, "raydistill"):
        small = list(gradients_of(parts))
    assert len(small) == len(plain) == parts.steps_per_epoch
    for expected, received in zip(plain, small, strict=True):
        for name, gradient in expected.items():
            torch.testing.assert_close(received[name], gradient, atol=1e-5, rtol=1e-5, msg=name)
    assert max(sizes) <= 32
    assert parts.student.tokens_per_micro_batch == 32
    assert parts.trainer.memory.cached
    # Once, and not again in every later step.
    [record] = [record for record in caplog.records if "out of memory" in record.message]
    assert "32 instead of 64 tokens" in record.message


@pytest.mark.parametrize("call", [0, 4, 8, 10, 14, 20], ids=str)
def test_no_gradient_of_a_failed_attempt_is_left(config_of: Callable[..., TrialConfig], call: int) -> None:
    """Half the micro-batches counted twice, because the attempt that failed had already added theirs."""
    config = config_of("none", training={**SMALL_STEPS, "gradient_cache": "always", "measure_gradients": False})
    plain = take_steps(config, 2, World.alone())
    with out_of_memory_at([call]):
        again = take_steps(config, 2, World.alone())
    assert again["tokens"] == 32
    for expected, received in zip(plain["gradients"], again["gradients"], strict=True):
        for name, gradient in expected.items():
            torch.testing.assert_close(received[name], gradient, atol=1e-5, rtol=1e-5, msg=name)
    assert again["averages"]["loss"] == pytest.approx(plain["averages"]["loss"], rel=1e-5)


def test_tensors_of_a_failed_attempt_are_freed_before_the_next(parts_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The traceback that holds on to all graphs: the second attempt would find even less room than the first."""
    parts = parts_of("pmd", view="separate", training={"gradient_cache": "auto"})
    original = BiEncoder.encode_part
    seen: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def encode_part(self: BiEncoder, texts: Texts, tower: Any, needs: Any) -> Any:
        if self is parts.student:
            if len(seen) == 4 and not alive:
                alive.append(-1)
                raise type(CUDA)(*CUDA.args)
            if alive == [-1]:
                alive.append(sum(one() is not None for one in seen))
        output = original(self, texts, tower, needs)
        if self is parts.student:
            seen.append(weakref.ref(output.vectors))
        return output

    monkeypatch.setattr(BiEncoder, "encode_part", encode_part)
    gc.disable()
    try:
        next(parts.trainer.run_epoch())
    finally:
        gc.enable()
    assert alive == [-1, 0]


def test_step_that_does_not_fit_text_by_text_is_refused(
    parts_of: Make, limit: Callable[..., list[int]], weights_of: Callable[..., dict[str, torch.Tensor]]
) -> None:
    """Halving for ever, or a traceback from inside an allocator."""
    parts = parts_of("pmd", training={"gradient_cache": "auto"})
    limit(parts, 4)
    before = weights_of(parts.student)
    with pytest.raises(OutOfMemoryError, match="one text of") as refused:
        next(parts.trainer.run_epoch())
    error = refused.value
    assert isinstance(error, TrainingError)
    assert all((error.received, error.expected, error.consequence, error.remedy))
    assert "Tried to allocate 2.00 GiB" in error.received
    assert all(torch.equal(tensor, before[name]) for name, tensor in parts.student.state_dict().items())
    assert parts.optimizer.tensors() == {}
    assert all(p.grad is None for p in parts.optimizer.parameters)


def test_step_without_the_gradient_cache_is_refused_with_the_way_out(
    parts_of: Make, limit: Callable[..., list[int]]
) -> None:
    """Smaller micro-batches alone save nothing in a plain step: all graphs are held together."""
    parts = parts_of("none", training={"gradient_cache": "never"})
    limit(parts, 100)
    with pytest.raises(OutOfMemoryError, match=r"gradient_cache to auto.*--resume"):
        next(parts.trainer.run_epoch())


def test_other_failures_are_not_taken_for_a_lack_of_memory(parts_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that is tried again seven times and then reported as too little memory."""
    parts = parts_of("none", training={"gradient_cache": "always"})
    calls = []

    def encode_part(self: BiEncoder, texts: Texts, tower: Any, needs: Any) -> Any:
        calls.append(tower)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(BiEncoder, "encode_part", encode_part)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        next(parts.trainer.run_epoch())
    assert len(calls) == 1
    assert not is_out_of_memory(ValueError("out of memory"))


def test_teacher_encodes_in_parts_of_the_same_size(parts_of: Make, limit: Callable[..., list[int]]) -> None:
    """A student in small parts beside a teacher, larger than it, in big ones; or one that came later in its old ones."""
    parts = parts_of("pmd", view="shared", training={"gradient_cache": "auto"})
    limit(parts, 32)
    teacher = parts.trainer.teacher.model  # type: ignore[attr-defined]
    steps = parts.trainer.run_epoch()
    next(steps)
    assert teacher.tokens_per_micro_batch == 32
    teacher.tokens_per_micro_batch = 64
    next(steps)
    assert teacher.tokens_per_micro_batch == 32


@pytest.mark.slow
def test_workers_take_a_step_again_together(config_of: Callable[..., TrialConfig], tmp_path: Path) -> None:
    """One worker that waits for ever for vectors of another that has no memory, or weights that drift apart."""
    training = {**SMALL_STEPS, "gradient_cache": "auto", "remember_teacher": False, "measure_gradients": False}
    # Texts of 16 tokens leave room to halve 64 tokens twice.
    long, short = (
        config_of("pmd", view="separate", data={"max_tokens": tokens}, training=training) for tokens in (32, 16)
    )
    kept = config_of("pmd", view="separate", data={"max_tokens": 32}, training={**training, "remember_teacher": True})
    failing: list[tuple[TrialConfig, dict[str, list[int]], list[int]]] = [
        (long, {"1": [0]}, [32]),  # before anything is exchanged
        (long, {"0": [9]}, [32]),  # somewhere on the way, the other worker is elsewhere
        (long, {"1": [12]}, [32]),
        (long, {"0": [22]}, [32]),  # in the second step
        (kept, {"1": [1]}, [32]),  # before the first one, while the teacher reads all texts
        (short, {"0": [6], "1": [6]}, [32, 16]),  # both: at once, or the later one when the step is taken again
        (short, {"0": [2], "1": [12]}, [16]),  # one after the other
    ]
    found = run_workers(tmp_path, [(config, 2, calls) for config, calls, _ in failing], 2)
    for (config, _, tokens), first, second in zip(failing, *found, strict=True):
        assert first["tokens"] == second["tokens"]
        assert first["tokens"] in tokens
        plain = take_steps(config, 2, World.alone())
        for rank in (first, second):
            for expected, received in zip(plain["gradients"], rank["gradients"], strict=True):
                for name, gradient in expected.items():
                    torch.testing.assert_close(received[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
        assert all(torch.equal(tensor, second["weights"][name]) for name, tensor in first["weights"].items())


def test_gradient_cache_is_no_part_of_a_trials_identity(config_of: Callable[..., TrialConfig]) -> None:
    """Finished trials that are trained again, because the campaign goes on where memory is short."""
    ways = [config_of("none", training={"gradient_cache": way}) for way in ("never", "auto", "always")]
    assert len({config.identity for config in ways}) == 1


@pytest.mark.slow
@pytest.mark.skipif("RAYDISTILL_MEMORY" not in os.environ, reason="four minutes: set RAYDISTILL_MEMORY=1")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of resident memory are Linux's")
@pytest.mark.parametrize("method", ["none", "pmd"])
def test_cached_step_of_a_real_encoder_takes_under_a_third_of_the_memory(tmp_path: Path, method: str) -> None:
    """A gradient cache that is right and saves nothing, because something holds on to the graphs."""
    found = {}
    for way in ("never", "always"):
        out = tmp_path / way
        script = str(Path(__file__).parent / "step_memory.py")
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, script, way, method, str(out)], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        found[way] = torch.load(out)
    plain, cached = found["never"], found["always"]
    assert cached["grown"] <= 0.3 * plain["grown"]
    assert cached["loss"] == pytest.approx(plain["loss"], rel=1e-5, abs=1e-5)
    assert plain["gradients"].keys() == cached["gradients"].keys()
    for name, gradient in plain["gradients"].items():
        torch.testing.assert_close(cached["gradients"][name], gradient, atol=1e-5, rtol=1e-5, msg=name)
