"""Terms of methods whose graph is taught in parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raydistill.data.batches import TripleBatch
from raydistill.data.groups import RelationGroups
from raydistill.devices import sent
from raydistill.models.features import Needs
from raydistill.objectives.sliced import sliced_divergence
from raydistill.training.outputs import StepOutputs
from raydistill.training.terms.scores import logit_rows
from raydistill.training.terms.term import OnView, Plain


@dataclass(frozen=True)
class SlicedDivergenceTerm(Plain):
    """tau^2-scaled KL divergence of the distributions over the candidates that the example's part of the graph has (ED)."""

    weight: float
    temperature: float
    groups: RelationGroups
    name: str = "sliced"
    on: OnView = "clean"
    student_needs: Needs = Needs()
    teacher_needs: Needs | None = Needs()

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over examples, nats."""
        student, teacher, valid = logit_rows(step)
        in_slice = sent(self.slices(step.clean.batch), student.device)
        return sliced_divergence(student, teacher, valid, in_slice, temperature=self.temperature).mean()

    def slices(self, batch: TripleBatch) -> Tensor:
        """Which candidates are of each example's part, `(batch, columns)` bool."""
        group = self.groups.of_relation[batch.relations]
        return torch.from_numpy(self.groups.answers[group[:, None], batch.column_entities[None, :]])
