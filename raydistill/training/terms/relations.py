"""Terms on attention: relations between tokens (MiniLM), attention scores (TinyBERT) and shares (DQ-BART, HomoDistil)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raydistill.models.features import QKV, Needs
from raydistill.objectives import relations
from raydistill.objectives.weighted import Weighted
from raydistill.training.outputs import Side, StepOutputs
from raydistill.training.terms.like_length import by_like_length
from raydistill.training.terms.term import OnView, Plain

Which = Literal["queries", "keys", "values"]
OverLayers = Literal["mean", "sum"]
PLACES: dict[Which, int] = {"queries": 0, "keys": 1, "values": 2}
"""Where each stands in what a layer's attention is computed from."""


@dataclass(frozen=True)
class RelationTerm(Plain):
    """How the tokens of each text stand to each other in one layer of either model, summed over both towers (MiniLM, MiniLMv2)."""

    weight: float
    between: tuple[Which, Which]
    student_layer: int
    teacher_layer: int
    heads: int
    name: str
    on: OnView = "clean"

    @property
    def student_needs(self) -> Needs:
        """The layer's queries, keys and values."""
        return Needs(frozenset({QKV(self.student_layer)}))

    @property
    def teacher_needs(self) -> Needs | None:
        """Those of the teacher's layer."""
        return Needs(frozenset({QKV(self.teacher_layer)}))

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over texts, nats, summed over towers."""
        return step.clean.mean_over_texts(self._per_text)

    def _per_text(self, side: Side) -> Weighted:
        return related(
            side, relations.relation_divergence, self.between, self.student_layer, self.teacher_layer, self.heads
        )


@dataclass(frozen=True)
class AttentionScoreTerm(Plain):
    """Squared error of attention, mean (or sum) over mapped layers, summed over both towers: of scores before the softmax (TinyBERT), or what `objective` says."""

    weight: float
    student_layers: tuple[int, ...]
    teacher_layers: tuple[int, ...]
    heads: int
    name: str = "attention"
    on: OnView = "clean"
    objective: Callable[..., Weighted] = relations.attention_score_mse
    reduction: OverLayers = "mean"

    @property
    def student_needs(self) -> Needs:
        """Queries and keys of the student's layers."""
        return Needs(frozenset(QKV(layer) for layer in self.student_layers))

    @property
    def teacher_needs(self) -> Needs | None:
        """Those of the teacher's layers."""
        return Needs(frozenset(QKV(layer) for layer in self.teacher_layers))

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over texts and layers, squared scores (or shares), summed over towers."""
        return step.clean.mean_over_texts(self._per_text)

    def _per_text(self, side: Side) -> Weighted:
        mapped = zip(self.student_layers, self.teacher_layers, strict=True)
        found = [related(side, self.objective, ("queries", "keys"), own, theirs, self.heads) for own, theirs in mapped]
        return over_layers(found, self.reduction)


def over_layers(values: list[Weighted], how: OverLayers) -> Weighted:
    """The values of several layers as one for each text; all layers have the same weights."""
    found = torch.stack([one.values for one in values])
    return Weighted(found.mean(0) if how == "mean" else found.sum(0), values[0].weights)


def related(
    side: Side,
    objective: Callable[..., Weighted],
    between: tuple[Which, Which],
    student_layer: int,
    teacher_layer: int,
    heads: int,
) -> Weighted:
    """An objective on relations for each text of a side."""
    assert side.teacher is not None
    layers = side.student.states[QKV(student_layer)], side.teacher.states[QKV(teacher_layer)]
    # What is related to itself is moved once.
    places = [PLACES[which] for which in dict.fromkeys(between)]

    def related(parts: list[Tensor], owner: Tensor, count: int) -> Weighted:
        own, theirs = parts[: len(places)], parts[len(places) :]
        return objective((own[0], own[-1]), (theirs[0], theirs[-1]), owner, count, heads=heads)

    return by_like_length(side, [layer[:, place] for layer in layers for place in places], related)
