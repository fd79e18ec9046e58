"""Terms on token states: as they are (DQ-BART), through one learned projection for all layers (TinyBERT) or one for each (HomoDistil), or their directions alone
(DistilBERT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from raydistill.models.features import Needs
from raydistill.objectives import hidden
from raydistill.objectives.directions import direction_distance
from raydistill.objectives.weighted import Weighted
from raydistill.students.reshaping import Kept, StructureChange, narrowed
from raydistill.training.outputs import Side, StepOutputs
from raydistill.training.terms.relations import OverLayers, over_layers
from raydistill.training.terms.term import OnView, Plain


@dataclass(frozen=True)
class StateTerm(Plain):
    """Squared error of token states of mapped layers, over both towers.

    Args:
        weight: in the loss.
        student_layers: whose states are compared; `EMBEDDINGS` = those below the first.
        teacher_layers: with whose.
        projections: `(student width, teacher width)`, trained beside the student and as narrow as it is: one for all layers, or a list of one for each;
            None = equal widths are compared as they are.
        reduction: over layers.
        name: of the term.
    """

    weight: float
    student_layers: tuple[int, ...]
    teacher_layers: tuple[int, ...]
    projections: nn.Linear | nn.ModuleList | None = None
    reduction: OverLayers = "mean"
    name: str = "hidden"
    on: OnView = "clean"

    @property
    def own(self) -> nn.Module | None:
        """The projections."""
        return self.projections

    def follow(self, change: StructureChange) -> Mapping[str, Kept]:
        """Project from the units that the student still has."""
        if self.projections is None:
            return {}
        linear = {name: one for name, one in self.projections.named_modules() if isinstance(one, nn.Linear)}
        return {
            f"{name}.{key}" if name else key: kept
            for name, one in linear.items()
            for key, kept in narrow_inputs(one, change).items()
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
        """Mean over tokens and units, mean or sum over layers, summed over towers."""
        return step.clean.mean_over_texts(self._per_text)

    def _per_text(self, side: Side) -> Weighted:
        assert side.teacher is not None
        owner, found = side.texts.there("text_of_token", side.student.vectors.device), []
        for place, (own, theirs) in enumerate(zip(self.student_layers, self.teacher_layers, strict=True)):
            states = self._projected(place, side.student.states[own])
            found.append(hidden.hidden_mse(states, side.teacher.states[theirs], owner, len(side.texts)))
        return over_layers(found, self.reduction)

    def _projected(self, place: int, states: Tensor) -> Tensor:
        if self.projections is None:
            return states
        one = self.projections[place] if isinstance(self.projections, nn.ModuleList) else self.projections
        projected: Tensor = one(states.float())
        return projected


@dataclass(frozen=True)
class DirectionTerm(Plain):
    """1 - cosine of the last token states, mean over tokens, summed over towers (DistilBERT).

    Args:
        weight: in the loss.
        student_layer: whose states are compared.
        teacher_layer: with whose.
    """

    weight: float
    student_layer: int
    teacher_layer: int
    name: str = "cosine"
    on: OnView = "clean"

    @property
    def student_needs(self) -> Needs:
        """Token states of the student's layer."""
        return Needs(frozenset({self.student_layer}))

    @property
    def teacher_needs(self) -> Needs | None:
        """Those of the teacher's."""
        return Needs(frozenset({self.teacher_layer}))

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over tokens, summed over towers."""
        return step.clean.mean_over_texts(self._per_text)

    def _per_text(self, side: Side) -> Weighted:
        assert side.teacher is not None
        own, theirs = side.student.states[self.student_layer], side.teacher.states[self.teacher_layer]
        return direction_distance(own, theirs, side.texts.there("text_of_token", own.device), len(side.texts))


def projection(student_width: int, teacher_width: int) -> nn.Linear:
    """A projection without bias that begins as the identity, as far as the widths go: equal models begin with nothing to learn."""
    made = nn.Linear(student_width, teacher_width, bias=False)
    nn.init.eye_(made.weight)
    return made


def narrow_inputs(projection: nn.Module, change: StructureChange) -> dict[str, Kept]:
    """Have a projection without bias, from a student's units, begin at those that stay; what stays of its parameters, by name."""
    assert isinstance(projection, nn.Linear)
    if change.units is None:
        return {}
    kept: Kept = (None, change.units)
    projection.weight = nn.Parameter(narrowed(projection.weight.detach(), kept))
    projection.in_features = projection.weight.shape[1]
    return {"weight": kept}
