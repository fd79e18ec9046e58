"""Terms that look inside the towers: masked features (PMD) and intermediate states (PKD)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from raydistill.models.features import Needs
from raydistill.objectives import hidden, masked
from raydistill.objectives.weighted import Weighted
from raydistill.training.outputs import Side, StepOutputs
from raydistill.training.terms.term import OnView, Plain


@dataclass(frozen=True)
class MaskedFeatureTerm(Plain):
    """Squared error of last-layer features at masked tokens, sum over both towers (PMD Eq. 2 and 5)."""

    weight: float
    student_layer: int
    teacher_layer: int
    preset: Literal["paper", "reference"] = "paper"
    over_hidden: Literal["mean", "sum"] = "mean"
    name: str = "mgfd"
    on: OnView = "corrupted"

    @property
    def student_needs(self) -> Needs:
        """The last layer."""
        return Needs(frozenset({self.student_layer}))

    @property
    def teacher_needs(self) -> Needs | None:
        """The last layer, where tokens are masked."""
        return Needs(frozenset({self.teacher_layer}), masked_only=True)

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over masked tokens (paper) or texts (reference), summed over towers."""
        return step.corrupted.mean_over_texts(self._per_text)

    def _per_text(self, side: Side) -> Weighted:
        assert side.teacher is not None
        student, teacher = side.student.states[self.student_layer], side.teacher.states[self.teacher_layer]
        owner, count = side.texts.text_of_token, len(side.texts)
        if self.preset == "reference":
            return masked.masked_feature_pooled(student, teacher, side.masked, owner, count)
        return masked.masked_feature_per_token(
            student, teacher, side.masked, owner, count, over_hidden=self.over_hidden
        )


@dataclass(frozen=True)
class PatienceTerm(Plain):
    """Squared distance of pooled, normalised intermediate states (PKD), sum over both towers."""

    weight: float
    student_layers: tuple[int, ...]
    teacher_layers: tuple[int, ...]
    pooling: Literal["mean", "cls"] = "mean"
    name: str = "patience"
    on: OnView = "clean"

    @property
    def student_needs(self) -> Needs:
        """The student's layers but its last."""
        return Needs(frozenset(self.student_layers))

    @property
    def teacher_needs(self) -> Needs | None:
        """The teacher layers they learn from."""
        return Needs(frozenset(self.teacher_layers))

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over texts, summed over towers."""
        return step.clean.mean_over_texts(self._per_text)

    def _per_text(self, side: Side) -> Weighted:
        assert side.teacher is not None
        device = side.student.vectors.device
        owner, starts = side.texts.there("text_of_token", device), side.texts.there("starts", device)

        def pooled(states: Tensor) -> Tensor:
            return hidden.pool_tokens(states, owner, len(side.texts), how=self.pooling, first_token=starts)

        return hidden.patience(
            [pooled(side.student.states[layer]) for layer in self.student_layers],
            [pooled(side.teacher.states[layer]) for layer in self.teacher_layers],
            reduction="mean",
        )
