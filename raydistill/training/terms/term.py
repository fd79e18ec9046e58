"""Terms: an objective, its weight, the view it looks at, what it needs captured, and what it learns for itself.

The loss is the weighted sum of the terms' values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from raydistill.data.batches import TripleBatch
from raydistill.models.features import Needs
from raydistill.objectives import contrastive
from raydistill.students.reshaping import Kept, StructureChange
from raydistill.training.outputs import StepOutputs, Wanted

OnView = Literal["clean", "corrupted"]


class Term(Protocol):
    """One summand of the loss."""

    @property
    def name(self) -> str:
        """Key under which value and gradient norm are reported."""
        ...

    @property
    def weight(self) -> float:
        """Factor in the loss, once it has risen to it."""
        ...

    def weight_at(self, epoch: int) -> float:
        """Factor in the loss in an epoch, from 0."""
        ...

    @property
    def own(self) -> nn.Module | None:
        """What is trained beside the student and belongs to no model, such as a projection; saved with a trial, and not with what it promotes."""
        ...

    def follow(self, change: StructureChange) -> Mapping[str, Kept]:
        """Bring what is its own to the shape that the student has now.

        Returns:
            What stays of each parameter of `own` that was narrowed, by name.
        """
        ...

    @property
    def on(self) -> OnView:
        """The view of which it looks at the student."""
        ...

    @property
    def teacher_on(self) -> OnView:
        """The view of which it looks at the teacher."""
        ...

    @property
    def student_needs(self) -> Needs:
        """Layers captured of the student."""
        ...

    @property
    def teacher_needs(self) -> Needs | None:
        """Layers captured of the teacher; None = the term has no teacher."""
        ...

    def value(self, step: StepOutputs) -> Tensor:
        """The unweighted value, a scalar over the whole batch of all workers."""
        ...


@dataclass(frozen=True)
class Ramp:
    """A factor that goes evenly from one value in the first epoch to another in the last."""

    first: float
    last: float
    epochs: int

    def at(self, epoch: int) -> float:
        """The factor of an epoch, from 0."""
        share = min(1.0, epoch / max(1, self.epochs - 1))
        return self.first + (self.last - self.first) * share


class Plain:
    """A term whose weight stays as it is, that looks at both models on one view, and learns nothing for itself."""

    weight: float
    on: OnView

    @property
    def own(self) -> nn.Module | None:
        """Nothing."""
        return None

    @property
    def teacher_on(self) -> OnView:
        """The view of which it looks at the student, too."""
        return self.on

    def weight_at(self, epoch: int) -> float:
        """Its weight."""
        return self.weight

    def follow(self, change: StructureChange) -> Mapping[str, Kept]:
        """Nothing of its own is as wide as the student."""
        return {}


@dataclass(frozen=True)
class ContrastiveTerm(Plain):
    """InfoNCE both ways, with margin, trainable temperature, and self- and pre-batch negatives where the batch has them."""

    weight: float
    margin: float
    reduction: Literal["mean", "sum"] = "mean"
    pre_batch_weight: float = 0.5
    ramp: Ramp | None = None
    name: str = "ce"
    on: OnView = "clean"
    student_needs: Needs = Needs()
    teacher_needs: Needs | None = None

    def weight_at(self, epoch: int) -> float:
        """Along the ramp, where there is one."""
        return self.weight if self.ramp is None else self.weight * self.ramp.at(epoch)

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over examples, nats."""
        encoded, batch = step.clean, step.clean.batch
        device = encoded.scores.device
        rows = batch.there("rows", device)
        self_scores = extra_scores = None
        if batch.self_positions is not None:
            heads = encoded.candidate_vectors.index_select(0, batch.there("self_positions", device))
            self_scores = (encoded.query_vectors.index_select(0, rows) * heads).sum(-1)
        if step.earlier is not None:
            extra_scores = encoded.query_vectors @ step.earlier.vectors.T
        return contrastive.both_directions(
            encoded.scores,
            rows,
            batch.there("columns", device),
            batch.there("valid_rows", device),
            batch.there("valid_columns", device),
            inverse_temperature=step.inverse_temperature,
            margin=self.margin,
            reduction=self.reduction,
            self_scores=self_scores,
            self_valid=_mask_beside(self_scores, batch, "self_valid"),
            extra_scores=extra_scores,
            extra_valid=_mask_beside(extra_scores, batch, "extra_valid"),
            extra_weight=self.pre_batch_weight,
        ).mean()


def wanted_on(terms: Sequence[Term], view: OnView) -> Wanted:
    """What the terms on one view need captured, together."""
    wanted = Wanted(None, None)
    for term in terms:
        student = term.student_needs if term.on == view else None
        wanted = wanted | Wanted(student, term.teacher_needs if term.teacher_on == view else None)
    return wanted


def _mask_beside(scores: Tensor | None, batch: TripleBatch, name: str) -> Tensor | None:
    return None if scores is None or getattr(batch, name) is None else batch.there(name, scores.device)
