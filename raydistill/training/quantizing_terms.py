"""The term on token states of a student that is as wide as its teacher: joint distillation and quantisation compares them as they are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raydistill.devices import sent
from raydistill.models.features import Needs
from raydistill.objectives import hidden
from raydistill.objectives.weighted import Weighted
from raydistill.training.outputs import Side, StepOutputs
from raydistill.training.relation_terms import over_layers
from raydistill.training.terms import OnView, Plain


@dataclass(frozen=True)
class StateTerm(Plain):
    """Squared error of token states of mapped layers, `EMBEDDINGS` among them where asked for; mean over layers, summed over both towers."""

    weight: float
    student_layers: tuple[int, ...]
    teacher_layers: tuple[int, ...]
    name: str = "hidden"
    on: OnView = "clean"

    @property
    def student_needs(self) -> Needs:
        """Token states of the student's layers."""
        return Needs(frozenset(self.student_layers))

    @property
    def teacher_needs(self) -> Needs | None:
        """Those of the teacher's layers."""
        return Needs(frozenset(self.teacher_layers))

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over tokens, units and layers, summed over towers."""
        return step.clean.mean_over_texts(self._per_text)

    def _per_text(self, side: Side) -> Weighted:
        assert side.teacher is not None
        owner, count = sent(side.texts.text_of_token, side.student.vectors.device), len(side.texts)
        found = [
            hidden.hidden_mse(side.student.states[own], side.teacher.states[theirs], owner, count)
            for own, theirs in zip(self.student_layers, self.teacher_layers, strict=True)
        ]
        return over_layers(found, "mean")
