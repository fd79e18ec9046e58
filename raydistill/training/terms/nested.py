"""Terms over all models that begin alike and end after another layer each: one forward pass gives the outputs of all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raydistill.models.biencoder import Pooling
from raydistill.models.features import Needs
from raydistill.objectives import hidden
from raydistill.training.outputs import StepOutputs
from raydistill.training.terms.term import OnView, Plain, Term


@dataclass(frozen=True)
class VectorTerm(Plain):
    """Squared distance of the student's vectors to its teacher's, sum over both towers."""

    weight: float
    name: str = "feature"
    on: OnView = "clean"
    student_needs: Needs = Needs()
    teacher_needs: Needs | None = Needs()

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over texts, in [0, 4] for each tower."""
        encoded = step.clean
        pairs = zip((encoded.query_vectors, encoded.candidate_vectors), encoded.teacher_vectors, strict=True)
        values = [hidden.patience([student], [teacher], reduction="sum").mean() for student, teacher in pairs]
        return torch.stack(values).sum()


@dataclass(frozen=True)
class NestedTerm(Plain):
    """The mean of a term that looks at vectors alone, over the student and the models of its first layers.

    Vectors of earlier batches are the whole student's, and no negatives for the others.

    Args:
        weight: of the mean.
        term: what is averaged; on the clean view, with nothing of its own.
        inner: layers after which the shallower ones end, from 0.
        pooling: how they make a vector of token states.
        name: key under which it is reported; each one's value is noted as `NAME/layersK`.
    """

    weight: float
    term: Term
    inner: tuple[int, ...]
    pooling: Pooling
    name: str
    on: OnView = "clean"

    @classmethod
    def of(cls, term: Term, inner: tuple[int, ...], pooling: Pooling) -> NestedTerm:
        """A term over all, with its own weight and name."""
        return cls(term.weight, term, inner, pooling, term.name)

    @property
    def student_needs(self) -> Needs:
        """The layers after which the shallower ones end."""
        return Needs(frozenset(self.inner)) | self.term.student_needs

    @property
    def teacher_needs(self) -> Needs | None:
        """The term's."""
        return self.term.teacher_needs

    def value(self, step: StepOutputs) -> Tensor:
        """The mean of the term's values."""
        shallower = step.clean.after(self.inner, self.pooling)
        values = [self.term.value(replace(step, clean=view, earlier=None)) for view in shallower]
        for layer, value in zip(self.inner, values, strict=True):
            step.notes[f"{self.name}/layers{layer + 1}"] = value.detach()
        return torch.stack([*values, self.term.value(step)]).mean()
