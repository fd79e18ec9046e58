"""The term that holds the states of each layer of a student to those of a layer of its teacher, through projections of their own (HomoDistil)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from raydistill.devices import sent
from raydistill.models.features import Needs
from raydistill.objectives import hidden
from raydistill.objectives.weighted import Weighted
from raydistill.students.reshaping import Kept, StructureChange
from raydistill.training.outputs import Side, StepOutputs
from raydistill.training.relation_terms import narrow_inputs, over_layers
from raydistill.training.terms import OnView, Plain


@dataclass(frozen=True)
class LayerStateTerm(Plain):
    """Squared error of token states, each of the student's layers brought to the teacher's width by a learned projection of its own; summed over mapped layers and both towers.

    Args:
        weight: in the loss.
        student_layers: whose states are compared.
        teacher_layers: with whose.
        projections: of each student layer, `(student width, teacher width)`, trained beside the student, and as narrow as it is.
    """

    weight: float
    student_layers: tuple[int, ...]
    teacher_layers: tuple[int, ...]
    projections: nn.ModuleList
    name: str = "hidden"
    on: OnView = "clean"

    @property
    def own(self) -> nn.Module | None:
        """The projections."""
        return self.projections

    def follow(self, change: StructureChange) -> Mapping[str, Kept]:
        """Project from the units that the student still has."""
        return {
            f"{number}.{name}": kept
            for number, projection in enumerate(self.projections)
            for name, kept in narrow_inputs(projection, change).items()
        }

    @property
    def student_needs(self) -> Needs:
        """Token states of the student's layers."""
        return Needs(frozenset(self.student_layers))

    @property
    def teacher_needs(self) -> Needs | None:
        """Those of the teacher's layers."""
        return Needs(frozenset(self.teacher_layers))

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over tokens and units, summed over layers and towers."""
        return step.clean.mean_over_texts(self._per_text)

    def _per_text(self, side: Side) -> Weighted:
        assert side.teacher is not None
        owner, found = sent(side.texts.text_of_token, side.student.vectors.device), []
        for own, theirs, projection in zip(self.student_layers, self.teacher_layers, self.projections, strict=True):
            projected = projection(side.student.states[own].float())
            found.append(hidden.hidden_mse(projected, side.teacher.states[theirs], owner, len(side.texts)))
        return over_layers(found, "sum")
