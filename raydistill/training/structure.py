"""A student's reshapers at work in a training loop: what changes with the student follows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from raydistill.models.biencoder import BiEncoder
from raydistill.students.reshaping import Choosing, Forgets, Reshaper, Standing, StructureChange, Succession, under
from raydistill.training.gather import World
from raydistill.training.optimizer import Optimizer
from raydistill.training.own import PREFIX
from raydistill.training.progress import PreBatch
from raydistill.training.terms.term import Term

SHAPE = "shape"
"""Begins the names of what reshapers keep beside a checkpoint's weights."""


@dataclass(frozen=True)
class Structure:
    """A student, what reshapes it, and what has to follow.

    Args:
        student: the model being trained.
        reshapers: in the order in which they act; none for most methods.
        terms: may have modules as wide as the student.
        optimizer: holds moments of every parameter.
        pre_batch: holds vectors as wide as the student.
        world: the trial's workers.
    """

    student: BiEncoder
    reshapers: tuple[Reshaper, ...]
    terms: Sequence[Term]
    optimizer: Optimizer
    pre_batch: PreBatch
    world: World

    @property
    def complete(self) -> bool:
        """Whether the student has the shape that was asked for."""
        return all(reshaper.complete for reshaper in self.reshapers)

    def after_backward(self, step: int) -> None:
        """Let all look at a step's gradients."""
        for reshaper in self.reshapers:
            reshaper.after_backward(self.student, step, _Workers(self.world))

    def forget_attempt(self) -> None:
        """Remove what an attempt at a step left that is made again."""
        self.optimizer.forget_gradients()
        for reshaper in self.reshapers:
            if isinstance(reshaper, Forgets):
                reshaper.forget()

    def after_step(self, step: int) -> bool:
        """Let all change the student; whether its parameters are others now."""
        changes = [reshaper.after_step(self.student, step) for reshaper in self.reshapers]
        for change in changes:
            if change is not None:
                self._follow(change)
        return any(change is not None for change in changes)

    @property
    def variants(self) -> dict[str, BiEncoder]:
        """What is to be validated beside the student, by name."""
        return {name: one for choosing in self._choosing for name, one in choosing.variants(self.student).items()}

    def after_validation(
        self, measured: Mapping[str, float], last: bool, teacher: Callable[[], Standing]
    ) -> Succession | None:
        """Let all decide by what was found; what the student is now, or None."""
        became = None
        for choosing in self._choosing:
            answer = choosing.after_validation(self.student, measured, last, teacher)
            if answer is not None:
                became = answer
                self._follow(answer.change)
        return became

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint's record says in place of what the trial began with."""
        return {key: one[key] for one in self.records() for key in ("layers", "layer_map") if key in one}

    def records(self) -> list[dict[str, Any]]:
        """What a checkpoint says of them."""
        return [{**one.record(), "name": one.name, "complete": one.complete} for one in self.reshapers]

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of them."""
        return {f"{SHAPE}.{one.name}.{key}": tensor for one in self.reshapers for key, tensor in one.tensors().items()}

    def restore(self, records: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
        """Bring the student to the shape that it had; the optimizer begins anew with the parameters that are there then."""
        for one, record in zip(self.reshapers, records, strict=True):
            change = one.restore(self.student, record, under(tensors, f"{SHAPE}.{one.name}."))
            if change is not None:
                for term in self.terms:
                    term.follow(change)
        if self.reshapers:
            self.optimizer.adopt()

    @property
    def _choosing(self) -> list[Choosing]:
        return [one for one in self.reshapers if isinstance(one, Choosing)]

    def _follow(self, change: StructureChange) -> None:
        self.pre_batch.follow(change)
        kept = dict(change.kept)
        for term in self.terms:
            kept.update({f"{PREFIX}.{term.name}.{key}": places for key, places in term.follow(change).items()})
        self.optimizer.follow(replace(change, kept=kept))


@dataclass(frozen=True)
class _Workers:
    """What a reshaper may ask of the other workers."""

    world: World

    def __call__(self, tensor: Tensor) -> Tensor:
        mean = tensor.detach().clone()
        self.world.average(mean)
        return mean

    def largest(self, tensor: Tensor) -> Tensor:
        """Its element-wise maximum over the workers."""
        return self.world.largest(tensor)
