"""Terms on the scores of a row's candidates: their distance (PMD), their divergence (Hinton), and the divergence taken apart (DKD)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from raydistill.models.features import Needs
from raydistill.objectives import decoupled, logits
from raydistill.training.outputs import StepOutputs
from raydistill.training.terms.term import OnView, Plain


@dataclass(frozen=True)
class ScoreTerm(Plain):
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
class DivergenceTerm(Plain):
    """tau^2-scaled KL divergence of the candidate distributions (Hinton et al. 2015).

    Space `logits`: each model at its own temperature; `cosine`: both at the teacher's, so that equal cosines have no divergence.
    """

    weight: float
    temperature: float
    space: Literal["cosine", "logits"] = "logits"
    name: str = "kl"
    on: OnView = "clean"
    student_needs: Needs = Needs()
    teacher_needs: Needs | None = Needs()

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over examples, nats."""
        if self.space == "logits":
            return logits.kl_divergence(*logit_rows(step), temperature=self.temperature).mean()
        student, teacher, valid = _rows(step)
        k = step.teacher_inverse_temperature
        return logits.kl_divergence(student * k, teacher * k, valid, temperature=self.temperature).mean()


@dataclass(frozen=True)
class DecoupledTerm(Plain):
    """The divergence of the right candidate's probability, and that among the wrong ones (DKD); its weight rises at first."""

    weight: float
    temperature: float
    target_weight: float
    rest_weight: float
    warmup_epochs: int = 1
    name: str = "dkd"
    on: OnView = "clean"
    student_needs: Needs = Needs()
    teacher_needs: Needs | None = Needs()

    def weight_at(self, epoch: int) -> float:
        """In equal steps from one `warmup_epochs`-th in the first epoch to the whole."""
        return self.weight * min(1.0, (epoch + 1) / self.warmup_epochs)

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over examples, nats."""
        student, teacher, valid = logit_rows(step)
        return decoupled.decoupled_divergence(
            student,
            teacher,
            step.clean.batch.there("columns", student.device),
            valid,
            temperature=self.temperature,
            target_weight=self.target_weight,
            rest_weight=self.rest_weight,
        ).mean()


def logit_rows(step: StepOutputs) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits, teacher logits, each at its own temperature and without margin, and validity of every example's row, `(batch, columns)`."""
    student, teacher, valid = _rows(step)
    return student * step.inverse_temperature, teacher * step.teacher_inverse_temperature, valid


def _rows(step: StepOutputs) -> tuple[Tensor, Tensor, Tensor]:
    """Student cosines, teacher cosines and validity of every example's row, `(batch, columns)`."""
    batch, device = step.clean.batch, step.clean.scores.device
    rows = batch.there("rows", device)
    return (
        step.clean.scores.index_select(0, rows),
        step.clean.teacher_scores.index_select(0, rows),
        batch.there("valid_rows", device),
    )
