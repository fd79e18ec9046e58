from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydistill.config.trial import TrialConfig
from raydistill.errors import CheckpointError
from raydistill.models.biencoder import BiEncoder
from raydistill.students.reshaping import Across, Kept, StructureChange
from raydistill.training.checkpoint import load_model, read_record
from raydistill.training.gather import World
from raydistill.training.methods import registry
from raydistill.training.optimizer import Optimizer
from raydistill.training.parts import build_parts
from raydistill.training.trial import EpochReport, run_trial

Train = Callable[..., list[EpochReport]]


@dataclass
class Halver:
    """Takes every second unit of all feed-forward layers away, once, after a given step."""

    at: int
    done: bool = False
    seen: list[int] = field(default_factory=list)
    name: str = "halving"

    @property
    def complete(self) -> bool:
        return self.done

    def prepare(self, student: BiEncoder) -> None:
        pass

    def after_backward(self, student: BiEncoder, step: int, across: Across) -> None:
        weight = student.query_encoder.encoder.layer[0].output.dense.weight  # type: ignore[union-attr, index]
        assert torch.equal(across(weight.grad), weight.grad)  # type: ignore[arg-type]
        self.seen.append(step)

    def after_step(self, student: BiEncoder, step: int) -> StructureChange | None:
        return self.halve(student) if step == self.at else None

    def halve(self, student: BiEncoder) -> StructureChange:
        self.done, kept = True, dict[str, Kept]()
        for tower in ("query_encoder", "entity_encoder"):
            encoder: Any = getattr(student, tower)
            units = torch.arange(0, encoder.config.intermediate_size, 2)
            for number, layer in enumerate(encoder.encoder.layer):
                for part, places in (("intermediate", (units, None)), ("output", (None, units))):
                    dense, name = getattr(layer, part).dense, f"{tower}.encoder.layer.{number}.{part}.dense.weight"
                    kept[name] = places
                    dense.weight = nn.Parameter(StructureChange(kept).of(name, dense.weight.detach()))
                bias, name = layer.intermediate.dense.bias, f"{tower}.encoder.layer.{number}.intermediate.dense.bias"
                kept[name] = (units,)
                layer.intermediate.dense.bias = nn.Parameter(StructureChange(kept).of(name, bias.detach()))
            encoder.config.intermediate_size = len(units)
        return StructureChange(kept)

    def record(self) -> dict[str, Any]:
        return {"done": self.done}

    def tensors(self) -> dict[str, Tensor]:
        return {"steps": torch.tensor(self.seen)}

    def restore(self, student: BiEncoder, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.seen = tensors["steps"].tolist()
        if record["done"]:
            self.halve(student)


@pytest.fixture
def halvers(monkeypatch: pytest.MonkeyPatch) -> list[Halver]:
    """Every trial of method `none` halves its student after step 4 (the fifth of six); the halvers that were made."""
    made: list[Halver] = []

    def make(*_: Any) -> Halver:
        made.append(Halver(4))
        return made[-1]

    monkeypatch.setitem(registry.METHODS, "none", replace(registry.METHODS["none"], reshaper=make))
    return made


def halved(config_of: Callable[..., TrialConfig]) -> TrialConfig:
    """Two epochs of three steps; the tiny encoder has 32 units in a feed-forward layer."""
    return config_of("none", training={"batch_size": 6, "checkpoint_steps": 1, "keep_checkpoints": 9})


def test_the_shape_that_was_asked_for_alone_is_measured_as_a_result(
    halvers: list[Halver], config_of: Callable[..., TrialConfig], train: Train, tmp_path: Path
) -> None:
    """A model promoted that is larger than what was asked for, because it was better before it was made smaller."""
    first, second = train(halved(config_of), tmp_path)
    assert "valid/both/mrr" not in first.metrics
    assert 0 < first.metrics["unfinished/valid/both/mrr"] <= 1
    assert 0 < second.metrics["valid/both/mrr"] <= 1
    assert not any("unfinished" in name for name in second.metrics)
    assert second.checkpoint is not None
    assert read_record(second.checkpoint)["reshaping"] == [{"name": "halving", "done": True, "complete": True}]
    loaded = load_model(second.checkpoint)
    assert loaded.query_encoder.config.intermediate_size == 16  # type: ignore[union-attr]
    assert [halver.seen for halver in halvers] == [[0, 1, 2, 3, 4, 5]]


def test_a_shape_in_between_is_no_model(
    halvers: list[Halver], config_of: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    """Weights that mean nothing without what was in the trainer's hands."""
    report = next(run_trial(halved(config_of), tmp_path, World.alone()))
    assert report.checkpoint is not None
    with pytest.raises(CheckpointError, match=r"shape was changing \(halving\)") as caught:
        load_model(report.checkpoint)
    assert "later checkpoint" in caught.value.remedy


@pytest.mark.parametrize("step", [2, 4, 5])
def test_training_goes_on_bit_for_bit_before_and_after_the_change(
    halvers: list[Halver],
    config_of: Callable[..., TrialConfig],
    train: Train,
    interrupt: Callable[..., None],
    tmp_path: Path,
    step: int,
) -> None:
    """Moments of another shape, or of other units, after a resumption."""
    config = halved(config_of)
    whole = train(config, tmp_path / "whole")[-1]
    interrupt(config, tmp_path / "cut", step)
    again = train(config, tmp_path / "cut")[-1]
    assert (again.digest, again.metrics["loss"]) == (whole.digest, whole.metrics["loss"])
    assert not math.isnan(again.metrics["loss"])


def test_moments_follow_the_units_that_stay() -> None:
    """A unit that goes on with its neighbour's moments, or that begins anew while the correction for its beginning does not."""
    torch.manual_seed(0)
    weight = torch.randn(4, 3)
    gradients = torch.randn(6, 4, 3)
    rows = torch.tensor([3, 1])
    whole, cut = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)
    for model in (whole, cut):
        model.weight = nn.Parameter(weight.clone())
    one, two = (Optimizer(m, learning_rate=0.1, weight_decay=0.1, warmup_steps=1, total_steps=9) for m in (whole, cut))
    for step, gradient in enumerate(gradients):
        whole.weight.grad = gradient.clone()
        cut.weight.grad = gradient.clone() if step < 3 else gradient[rows]
        one.step(step)
        two.step(step)
        if step == 2:
            change = StructureChange({"weight": (rows, None)})
            cut.weight = nn.Parameter(change.of("weight", cut.weight.detach()))
            two.follow(change)
    assert torch.equal(cut.weight, whole.weight[rows])


def test_an_unchanged_student_has_no_word_of_shapes_in_its_record(
    config_of: Callable[..., TrialConfig], train: Train, tmp_path: Path
) -> None:
    """Records, and so digests, of all other methods that change for nothing."""
    report = train(config_of("none", training={"epochs": 1}), tmp_path)[-1]
    assert report.checkpoint is not None
    assert "reshaping" not in read_record(report.checkpoint)
    assert build_parts(config_of("none"), World.alone()).trainer.structure.complete
