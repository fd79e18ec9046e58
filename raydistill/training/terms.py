"""Terms: an objective, its weight, the view it looks at and what it needs captured. The loss is the weighted sum of the terms' values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from raydistill.devices import sent
from raydistill.models.features import Needs
from raydistill.objectives import contrastive, logits
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
        """Factor in the loss."""
        ...

    @property
    def on(self) -> OnView:
        """The view it looks at."""
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
class ContrastiveTerm:
    """InfoNCE both ways, with margin, trainable temperature, and self- and pre-batch negatives where the batch has them."""

    weight: float
    margin: float
    reduction: Literal["mean", "sum"] = "mean"
    pre_batch_weight: float = 0.5
    name: str = "ce"
    on: OnView = "clean"
    student_needs: Needs = Needs()
    teacher_needs: Needs | None = None

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over examples, nats."""
        encoded, batch = step.clean, step.clean.batch
        device = encoded.scores.device
        rows = sent(batch.rows, device)
        self_scores = extra_scores = None
        if batch.self_positions is not None:
            heads = encoded.candidate_vectors[sent(batch.self_positions, device)]
            self_scores = (encoded.query_vectors[rows] * heads).sum(-1)
        if step.earlier is not None:
            extra_scores = encoded.query_vectors @ step.earlier.vectors.T
        return contrastive.both_directions(
            encoded.scores,
            rows,
            sent(batch.columns, device),
            sent(batch.valid_rows, device),
            sent(batch.valid_columns, device),
            inverse_temperature=step.inverse_temperature,
            margin=self.margin,
            reduction=self.reduction,
            self_scores=self_scores,
            self_valid=_moved(batch.self_valid, device, self_scores),
            extra_scores=extra_scores,
            extra_valid=_moved(batch.extra_valid, device, extra_scores),
            extra_weight=self.pre_batch_weight,
        ).mean()


@dataclass(frozen=True)
class ScoreTerm:
    """Squared error of scores over each example's valid candidates (PMD Eq. 4)."""

    weight: float
    space: Literal["cosine", "logits"] = "cosine"
    name: str = "score"
    on: OnView = "clean"
    student_needs: Needs = Needs()
    teacher_needs: Needs | None = Needs()

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over examples; squared logit units."""
        student, teacher, valid = _rows(step)
        if self.space == "cosine":
            return logits.score_mse(student, teacher, valid, scale=step.teacher_inverse_temperature).mean()
        return logits.logit_mse(
            student,
            teacher,
            valid,
            student_inverse_temperature=step.inverse_temperature,
            teacher_inverse_temperature=step.teacher_inverse_temperature,
        ).mean()


@dataclass(frozen=True)
class DivergenceTerm:
    """tau^2-scaled KL divergence of the candidate distributions (Hinton et al. 2015)."""

    weight: float
    temperature: float
    name: str = "kl"
    on: OnView = "clean"
    student_needs: Needs = Needs()
    teacher_needs: Needs | None = Needs()

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over examples, nats."""
        student, teacher, valid = _rows(step)
        scaled = student * step.inverse_temperature, teacher * step.teacher_inverse_temperature
        return logits.kl_divergence(*scaled, valid, temperature=self.temperature).mean()


def wanted_on(terms: Sequence[Term], view: OnView) -> Wanted:
    """What the terms on one view need captured, together."""
    wanted = Wanted(Needs(), None)
    for term in terms:
        if term.on == view:
            wanted = wanted | Wanted(term.student_needs, term.teacher_needs)
    return wanted


def _rows(step: StepOutputs) -> tuple[Tensor, Tensor, Tensor]:
    """Student cosines, teacher cosines and validity of every example's row, `(batch, columns)`."""
    batch, device = step.clean.batch, step.clean.scores.device
    rows = sent(batch.rows, device)
    return step.clean.scores[rows], step.clean.teacher_scores[rows], sent(batch.valid_rows, device)


def _moved(mask: Tensor | None, device: torch.device, scores: Tensor | None) -> Tensor | None:
    return None if mask is None or scores is None else sent(mask, device)
