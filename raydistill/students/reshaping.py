"""Students whose shape or number format changes while they learn: pruned, grown, quantised, or conditioned on something that is left behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from raydistill.models.biencoder import BiEncoder

Kept = tuple[Tensor | None, ...]
"""For each dimension of a parameter the positions that stay, `(kept,)` int64, in their new order; None = all."""


class Across(Protocol):
    """What the workers of a trial have together; all of them must ask alike."""

    def __call__(self, tensor: Tensor) -> Tensor:
        """A tensor's mean over the workers."""
        ...

    def largest(self, tensor: Tensor) -> Tensor:
        """Its element-wise maximum over them."""
        ...


@dataclass(frozen=True)
class StructureChange:
    """What became of a student's parameters, so that whatever belongs to one can follow it.

    Args:
        kept: of each parameter that was narrowed, by name. A parameter that is not named stays whole where it is still there; a new one begins anew.
        units: positions of the residual width that stay, `(kept,)` int64; None = all.
    """

    kept: Mapping[str, Kept] = field(default_factory=dict)
    units: Tensor | None = None

    def of(self, name: str, tensor: Tensor) -> Tensor:
        """What is left of a tensor that has the shape that the parameter had."""
        return narrowed(tensor, self.kept.get(name, ()))


class Reshaper(Protocol):
    """Changes one student, from its first step to its last. Randomness, if any, is a function of seed and step."""

    @property
    def name(self) -> str:
        """What is done to the student, in the record of its checkpoints."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the student has the shape that was asked for. Only then is an epoch's checkpoint one to be promoted."""
        ...

    def prepare(self, student: BiEncoder) -> None:
        """Make a student ready that has its initial weights and is on its device; before there is an optimizer."""
        ...

    def after_backward(self, student: BiEncoder, step: int, across: Across) -> None:
        """Look at the gradients of a step (counted from 0 over the whole training), equal on all workers, before the weights change.

        Whatever is taken from one worker's own data goes through `across`.
        """
        ...

    def after_step(self, student: BiEncoder, step: int) -> StructureChange | None:
        """Change the student, after the weights changed; None = its parameters are what they were."""
        ...

    def record(self) -> dict[str, Any]:
        """What a checkpoint says of it, in types JSON knows: enough to rebuild the shape before the weights are loaded.

        `layers` and `layer_map`, where they are there, are said of the checkpoint in place of those that the trial began with.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What training needs to go on bit for bit, besides the weights; on the CPU, contiguous."""
        ...

    def restore(
        self, student: BiEncoder, record: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> StructureChange | None:
        """Bring a prepared student, and this, to where `record` and `tensors` were taken; the weights are loaded afterwards.

        Returns:
            What became of its parameters, so that terms can follow; None = they have the shapes that they had.
        """
        ...


@dataclass(frozen=True)
class Standing:
    """How good and how big a trial's teacher is.

    Args:
        mrr: filtered MRR on the trial's validation split, a ratio.
        parameters: as its checkpoint has them.
        embeddings: how many of them are embeddings.
    """

    mrr: float
    parameters: int
    embeddings: int

    def size(self, *, embeddings: bool) -> int:
        """Parameters with or without the embeddings."""
        return self.parameters if embeddings else self.parameters - self.embeddings


@dataclass(frozen=True)
class Succession:
    """What took a student's place after a validation.

    Args:
        variant: its name.
        change: what became of the student's parameters.
        told: what it was chosen by, by the names that a trial's report has.
    """

    variant: str
    change: StructureChange
    told: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Choosing(Protocol):
    """A reshaper that decides by what a validation found. All workers ask it alike, with equal numbers."""

    def variants(self, student: BiEncoder) -> Mapping[str, BiEncoder]:
        """By name, what is to be validated beside the student: models that share its parameters. The student itself may be one."""
        ...

    def after_validation(
        self, student: BiEncoder, measured: Mapping[str, float], last: bool, teacher: Callable[[], Standing]
    ) -> Succession | None:
        """Have one of the variants take the student's place.

        Args:
            student: as it was validated.
            measured: MRR on the validation split, by variant.
            last: whether this was the last epoch.
            teacher: tells the standing of the trial's teacher, which may have to be measured.

        Returns:
            What the student is now; None = it is what it was.
        """
        ...


@runtime_checkable
class Forgets(Protocol):
    """A reshaper that looks at more of a step than its gradients."""

    def forget(self) -> None:
        """An attempt at a step did not fit into memory, and is made again: what was seen of it counts for nothing."""
        ...


def under(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """Those whose names begin so, by what follows."""
    return {name.removeprefix(start): one for name, one in tensors.items() if name.startswith(start)}


def narrowed(tensor: Tensor, kept: Kept) -> Tensor:
    """The positions that stay, dimension by dimension; a new tensor where anything goes."""
    for dimension, positions in enumerate(kept):
        if positions is not None:
            tensor = tensor.index_select(dimension, positions.to(tensor.device))
    return tensor
