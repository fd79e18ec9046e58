"""A student that grows: its first layers alone at first, closed by a block that makes up for the missing ones, then more layers from stage to stage."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from raydistill.models.biencoder import BiEncoder, Tower
from raydistill.students.reshaping import Across, StructureChange, under


class TeachingReference(nn.Module):
    """What stands in for the layers that are not there yet: a norm and a linear map, at first the identity, so that nothing is drawn.

    Args:
        width: hidden units of the tower.

    Source: ED (arXiv 2311.13811), whose block closes a network for images; here it maps each token's state, and is thrown away all the same.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        # Not initialised twice: that would draw from the generator that others draw from.
        self.linear: nn.Linear = nn.utils.skip_init(nn.Linear, width, width)  # type: ignore[no-untyped-call]
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Token states `(..., width)`, mapped."""
        mapped: Tensor = self.linear(self.norm(hidden))
        return mapped


class Grower:
    """Takes the upper layers of a student away, and gives them back, with the weights they had, stage by stage.

    The last step before a stage changes the student, so that the stage's first step is taken by all of its layers. The block of the stage before is
    then thrown away, and the last stage has none: what is left is a plain student.

    Args:
        layers: of the student in each stage.
        steps: with which each stage begins, from 0 over the whole training; rising from 0.
    """

    name = "growth"

    def __init__(self, layers: Sequence[int], steps: Sequence[int]) -> None:
        assert len(layers) == len(steps) and steps[0] == 0
        self.layers, self.steps = tuple(layers), tuple(steps)
        self.stage = 0
        self._taught = False
        self._waiting: dict[Tower, list[nn.Module]] = {}
        self._blocks: dict[Tower, nn.Module] = {}

    @property
    def complete(self) -> bool:
        """Whether a step was taken in the last stage: a student that has just got its last layers has not learned with them yet."""
        return self._taught

    def prepare(self, student: BiEncoder) -> None:
        """Leave the first stage's layers."""
        for tower in _towers(student):
            layers = _layers_of(student, tower)
            self._waiting[tower] = list(layers[self.layers[0] :])
            del layers[self.layers[0] :]
            _count(student, tower)
        self._close(student)

    def after_backward(self, student: BiEncoder, step: int, across: Across) -> None:
        """Nothing depends on gradients."""

    def after_step(self, student: BiEncoder, step: int) -> StructureChange | None:
        """Grow where the next step is a stage's first."""
        self._taught = self._taught or step >= self.steps[-1]
        stage = bisect_right(self.steps, step + 1) - 1
        if stage <= self.stage:
            return None
        self._grow(student, stage)
        return StructureChange()

    def record(self) -> dict[str, Any]:
        """The stage, from 0."""
        return {"stage": self.stage, "layers": self.layers[self.stage], "taught": self._taught}

    def tensors(self) -> dict[str, Tensor]:
        """The blocks, and the layers that wait: where students begin as their teacher, and teachers change, those of a later beginning are others."""
        return {
            f"{name}.{key}": tensor.detach().to("cpu").clone().contiguous()
            for name, module in self._kept()
            for key, tensor in module.state_dict().items()
        }

    def restore(self, student: BiEncoder, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Grow to the stage that was recorded, with the blocks and waiting layers of that time."""
        if record["stage"] > self.stage:
            self._grow(student, record["stage"])
        self._taught = record["taught"]
        for name, module in self._kept():
            module.load_state_dict(under(tensors, f"{name}."))

    def _kept(self) -> Iterator[tuple[str, nn.Module]]:
        for tower, block in self._blocks.items():
            yield f"{tower}.block", block
        for tower, layers in self._waiting.items():
            for number, layer in enumerate(layers, self.layers[self.stage]):
                yield f"{tower}.layer.{number}", layer

    def _grow(self, student: BiEncoder, stage: int) -> None:
        more = self.layers[stage] - self.layers[self.stage]
        for tower, waiting in self._waiting.items():
            _layers_of(student, tower).extend(layer.train(student.training) for layer in waiting[:more])
            del waiting[:more]
            _count(student, tower)
        self.stage = stage
        self._close(student)

    def _close(self, student: BiEncoder) -> None:
        """Take away the old blocks, and put new ones in their place where layers are still missing."""
        self._blocks.clear()
        student.tops.clear()
        if self.stage == len(self.layers) - 1:
            return
        for tower in _towers(student):
            block = TeachingReference(student.hidden_size).to(student.log_inverse_temperature.device)
            self._blocks[tower] = block.train(student.training)
            # Named after its stage: an optimizer knows parameters by their names, and this one is to begin without the moments of the last.
            student.tops[tower] = nn.Sequential(OrderedDict([(f"stage{self.stage}", block)]))
        if student.shared_towers:
            student.tops["entity"] = student.tops["query"]


def _towers(student: BiEncoder) -> tuple[Tower, ...]:
    return ("query",) if student.shared_towers else ("query", "entity")


def _layers_of(student: BiEncoder, tower: Tower) -> nn.ModuleList:
    layers: nn.ModuleList = student.encoder(tower).encoder.layer  # type: ignore[union-attr, assignment]
    return layers


def _count(student: BiEncoder, tower: Tower) -> None:
    """Have the configuration say how many layers there are: it is what a checkpoint is loaded by."""
    student.encoder(tower).config.num_hidden_layers = len(_layers_of(student, tower))  # type: ignore[union-attr]
