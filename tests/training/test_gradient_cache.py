"""Steps with the gradient cache against plain ones: equal values, gradients and randomness, and one graph at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raydistill.config.trial import TrialConfig
from raydistill.data.micro_batches import micro_batches
from raydistill.data.texts import Texts
from raydistill.models.biencoder import BiEncoder
from raydistill.models.features import Needs, TowerOutput
from raydistill.training.gather import World
from raydistill.training.gradient_cache import StudentPass
from raydistill.training.parts import TrialParts

sys.path.insert(0, str(Path(__file__).parent))
from worker import SMALL_STEPS, take_steps

Make = Callable[..., TrialParts]


def check_equal_steps(config_of: Callable[..., TrialConfig], name: str, steps: int, **changes: Any) -> None:
    training = {**SMALL_STEPS, **changes.pop("training", {})}
    plain, cached = (
        take_steps(config_of(name, training={**training, "gradient_cache": way}, **changes), steps, World.alone())
        for way in ("never", "always")
    )
    assert len(plain["gradients"]) == steps
    for expected, received in zip(plain["gradients"], cached["gradients"], strict=True):
        assert expected.keys() == received.keys()
        assert max(gradient.abs().max() for gradient in expected.values()) > 1e-2
        for parameter, gradient in expected.items():
            torch.testing.assert_close(received[parameter], gradient, atol=1e-5, rtol=1e-5, msg=parameter)
    assert any(key.startswith("gradient_norm/") for key in plain["averages"])
    for key, value in plain["averages"].items():
        if key not in ("seconds", "examples_per_second"):
            assert cached["averages"][key] == pytest.approx(value, rel=1e-5, abs=1e-5), key


@pytest.mark.parametrize("view", ["shared", "separate"])
def test_cached_step_is_the_plain_step_for_every_method(
    config_of: Callable[..., TrialConfig], method: str, view: str
) -> None:
    """A term whose gradient is lost at a leaf, a view that is encoded with another one's masks, or other dropout on the way back."""
    check_equal_steps(config_of, method, 2, view=view, layers=3, encoder={"dropout": 0.1})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("none", {"contrastive": {"self_negatives": True, "pre_batch": 2}}),
        ("none", {"contrastive": {"train_temperature": False}}),
        ("pmd", {"encoder": {"shared_towers": True, "dropout": 0.1}}),
        ("pmd", {"encoder": {"kind": "roberta"}}),
        ("pmd-logits", {"training": {"tokens_per_micro_batch": 10_000}}),
        ("pmd", {"training": {"batch_size": 2}, "view": "separate"}),
        ("kl", {"training": {"remember_teacher": False, "measure_gradients": True}, "layers": 1}),
    ],
    ids=["extra negatives", "frozen temperature", "shared towers", "roberta", "one part", "one triple", "one layer"],
)
def test_cached_step_is_the_plain_step_in_every_shape(
    config_of: Callable[..., TrialConfig], name: str, changes: dict[str, Any]
) -> None:
    """Vectors of earlier batches that differ, towers whose gradients overwrite each other, or nothing to propagate."""
    check_equal_steps(config_of, name, 3, **changes)


def test_temperature_gets_its_gradient(config_of: Callable[..., TrialConfig]) -> None:
    """What the terms use beside the outputs of the towers is no leaf's business, and easily forgotten."""
    config = config_of("pmd", training={**SMALL_STEPS, "gradient_cache": "always"})
    [gradients] = take_steps(config, 1, World.alone())["gradients"]
    assert gradients["log_inverse_temperature"].abs() > 1e-3


def test_bf16_steps_agree(config_of: Callable[..., TrialConfig]) -> None:
    """Weights cast without gradient in the first pass that are used again in the second: no gradient at all."""
    ways = [
        take_steps(
            config_of("pmd", training={**SMALL_STEPS, "precision": "bf16", "gradient_cache": way}), 1, World.alone()
        )
        for way in ("never", "always")
    ]
    [plain], [cached] = (way["gradients"] for way in ways)
    for parameter, gradient in plain.items():
        torch.testing.assert_close(cached[parameter], gradient, atol=2e-2, rtol=5e-2, msg=parameter)
    assert max(gradient.abs().max() for gradient in cached.values()) > 1e-2


def test_one_graph_exists_at_a_time(parts_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cached gradients that cost two passes and save nothing, because the first one keeps its graphs."""
    parts = parts_of("pmd", view="separate", training={"gradient_cache": "always", "measure_gradients": False})
    graphs: list[bool] = []
    kept: list[Any] = []
    original = BiEncoder.encode_part

    def encode_part(self: BiEncoder, texts: Texts, tower: Any, needs: Needs) -> TowerOutput:
        if self is parts.student:
            # A graph that was gone through is freed and cannot be gone through again.
            for output in kept:
                with pytest.raises(RuntimeError, match="second time"):
                    output.sum().backward()
            kept.clear()
        output = original(self, texts, tower, needs)
        if self is parts.student:
            graphs.append(output.vectors.requires_grad)
            kept.extend([output.vectors] if output.vectors.requires_grad and not needs.layers else [])
        return output

    monkeypatch.setattr(BiEncoder, "encode_part", encode_part)
    next(parts.trainer.run_epoch())
    half = len(graphs) // 2
    assert half > 4
    assert graphs == [False] * half + [True] * half


def dropped(student: StudentPass, texts: Texts, *, view: str = "clean", tower: Any = "entity") -> Tensor:
    return student.encode(view, texts, tower, Needs()).vectors.detach()


@pytest.mark.parametrize("cached", [True, False])
def test_dropout_depends_on_the_place_and_not_on_the_order(parts_of: Make, cached: bool) -> None:
    """A second pass in another order, or a step taken again, that drops other units than the first."""
    parts = parts_of("none", encoder={"dropout": 0.3, "shared_towers": True})
    parts.student.train()
    batch = parts.trainer.builder.build(parts.trainer.source.triples)
    texts = batch.candidates
    assert len(list(micro_batches(texts.lengths, parts.student.tokens_per_micro_batch))) > 2

    def student(*seeds: int) -> StudentPass:
        return StudentPass(parts.student, seeds, cached=cached)

    first = dropped(student(0, 1, 0), texts)
    again = student(0, 1, 0)
    dropped(again, batch.queries, tower="query")
    assert torch.equal(dropped(again, texts), first)
    others = [dropped(student(*seeds), texts) for seeds in ((1, 1, 0), (0, 2, 0), (0, 1, 1))]
    others += [dropped(student(0, 1, 0), texts, view="corrupted"), dropped(student(0, 1, 0), texts, tower="query")]
    tables = [first, *others]
    for number, one in enumerate(tables):
        assert not any(torch.allclose(one, other) for other in tables[number + 1 :])


def test_micro_batches_drop_different_units(parts_of: Make) -> None:
    """One seed for all micro-batches: equal texts in two of them would lose the same units in every step."""
    parts = parts_of("none", encoder={"dropout": 0.3})
    parts.student.train()
    parts.student.tokens_per_micro_batch = 1
    texts = parts.trainer.builder.build(parts.trainer.source.triples).candidates
    twice = texts.select(torch.tensor([0, 0]))
    one, other = dropped(StudentPass(parts.student, (0,), cached=True), twice)
    assert not torch.allclose(one, other)
