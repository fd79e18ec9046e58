"""Terms of a student that is told times (BOOT): its own later self teaches it, and where the path of noise begins its teacher does.

The student reads whole texts, each at an earlier and at a later time, on the clean view; the teacher reads the masked ones of the later times, on the
corrupted view (`noise_path.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from raydistill.models.features import Needs
from raydistill.objectives import bootstrap, logits
from raydistill.objectives.hidden import unit_vectors
from raydistill.training.noise_path import two_times
from raydistill.training.outputs import StepOutputs
from raydistill.training.terms.term import OnView, Plain


@dataclass(frozen=True)
class _OnPath:
    """One tower's texts at their two times, with all vectors `(texts, hidden)`."""

    earlier: Tensor
    later: Tensor
    student: Tensor
    student_later: Tensor
    teacher: Tensor

    @property
    def target(self) -> Tensor:
        """What the student is to say at the earlier times."""
        return bootstrap.bootstrap_target(self.student_later, self.teacher, self.earlier, self.later)


def _towers(step: StepOutputs) -> Iterator[_OnPath]:
    batch, vectors = step.clean.batch, (step.clean.query_vectors, step.clean.candidate_vectors)
    for texts, students, teachers in zip(
        (batch.queries, batch.candidates), vectors, step.corrupted.teacher_vectors, strict=True
    ):
        assert texts.times is not None
        yield _OnPath(*two_times(texts.there("times", students.device)), *two_times(students), teachers)


@dataclass(frozen=True)
class BootstrapTerm(Plain):
    """Squared distance of the student's vectors from one step of its own later ones towards its teacher's, summed over both towers."""

    weight: float
    name: str = "bootstrap"
    on: OnView = "clean"
    teacher_on: OnView = "corrupted"
    student_needs: Needs = Needs()
    teacher_needs: Needs | None = Needs()

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over texts, summed over towers and hidden units of unit vectors."""
        found = [
            bootstrap.bootstrap(one.student, one.student_later, one.teacher, one.earlier, one.later).mean()
            for one in _towers(step)
        ]
        return torch.stack(found).sum()


@dataclass(frozen=True)
class BoundaryTerm(Plain):
    """Squared distance of the student's vectors from its teacher's at the highest time, summed over both towers."""

    weight: float
    highest: float
    name: str = "boundary"
    on: OnView = "clean"
    teacher_on: OnView = "corrupted"
    student_needs: Needs = Needs()
    teacher_needs: Needs | None = Needs()

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over the texts that are there, summed over towers and hidden units of unit vectors."""
        found = [
            # Times are copies of the highest one where they are it: equal bits.
            bootstrap.boundary(one.student_later, one.teacher, one.later >= self.highest).mean()
            for one in _towers(step)
        ]
        return torch.stack(found).sum()


@dataclass(frozen=True)
class BootstrappedScoreTerm(Plain):
    """KL from the candidate distributions of the bootstrapped targets to those of the student, at the earlier times of both: row by row over all candidates of the batch."""

    weight: float
    name: str = "score"
    on: OnView = "clean"
    teacher_on: OnView = "corrupted"
    student_needs: Needs = Needs()
    teacher_needs: Needs | None = Needs()

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over queries, nats."""
        queries, candidates = _towers(step)
        student = queries.student @ candidates.student.T * step.inverse_temperature
        target = unit_vectors(queries.target) @ unit_vectors(candidates.target).T * step.teacher_inverse_temperature
        valid = torch.ones_like(student, dtype=torch.bool)
        return logits.kl_divergence(student, target, valid, temperature=1.0).mean()
