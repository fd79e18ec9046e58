"""The term of reinforced multi-teacher selection: a policy decides, example by example, whose scores the student imitates, and learns from how that went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from raydistill.devices import sent
from raydistill.models.features import Needs
from raydistill.objectives import logits, selection
from raydistill.objectives.weighted import Weighted
from raydistill.students.reshaping import Kept, StructureChange
from raydistill.training.outputs import StepOutputs
from raydistill.training.randomness import mix
from raydistill.training.terms.policy import Policy
from raydistill.training.terms.term import OnView, Plain


@dataclass(frozen=True)
class SelectedTeachersTerm(Plain):
    """Per-example distillation from the teachers that a policy switches on, and the policy's own gradient, which adds nothing to the value.

    Args:
        weight: in the loss.
        policy: learns by REINFORCE; no gradient goes from it to the student, or back.
        temperature: tau, kl only.
        seed: of the draws, with the step: all workers, and a step that is taken again, draw alike.
        warmup_epochs: in which all teachers are on and the policy waits.
        objective: what is compared.
        weighting: of the teachers, once the policy has spoken.
        reward: what it is told.
    """

    weight: float
    policy: Policy
    temperature: float
    seed: int
    warmup_epochs: int = 0
    objective: Literal["kl", "mse"] = "kl"
    weighting: Literal["chosen", "probabilities"] = "chosen"
    reward: Literal["example", "batch"] = "example"
    name: str = "selected"
    on: OnView = "clean"
    student_needs: Needs = Needs()
    teacher_needs: Needs | None = Needs(others=True)

    @property
    def own(self) -> nn.Module | None:
        """The policy."""
        return self.policy

    def follow(self, change: StructureChange) -> Mapping[str, Kept]:
        """The policy looks at the student's vectors."""
        if change.units is None:
            return {}
        self.policy.narrow(change.units)
        return {"example.weight": (None, change.units)}

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over examples, nats times tau squared, or squared logit units."""
        encoded, batch = step.clean, step.clean.batch
        device = encoded.scores.device
        rows, valid = batch.there("rows", device), batch.there("valid_rows", device)
        positives, scales = batch.there("columns", device), self._scales(step)
        student = encoded.scores.index_select(0, rows)
        teachers = [encoded.scores_of_teacher(number).index_select(0, rows) for number in range(len(scales))]
        own, pairs = student * step.inverse_temperature, list(zip(teachers, scales, strict=True))
        losses = [self._loss(step, student, scores, k, valid) for scores, k in pairs]
        theirs = torch.stack([scores * k for scores, k in pairs], dim=1)
        features = selection.teacher_features(own, theirs, positives, valid)
        pi = self.policy(features, encoded.query_vectors.index_select(0, rows))
        chosen = self._chosen(pi, step)
        taught = selection.taught_by(chosen)
        weights = selection.shares(taught.to(pi.dtype))
        rewards = self._rewards(selection.missed(own, positives, valid), selection.mixed(losses, weights))
        usual = self.policy.before(rewards.mean(), step.step)
        step.notes["policy/reward"] = rewards.mean()
        for number, share in enumerate(taught.float().mean(0)):
            step.notes[f"policy/chosen{number}"] = share
        if self.weighting == "probabilities" and not self._waits(step):
            weights = selection.shares(pi.detach())
        value = selection.mixed(losses, weights).mean()
        if len(scales) == 1 or self._waits(step):
            # A lone teacher teaches whether it is switched on or not, and where all are on nothing was chosen: there is nothing to learn from either. A
            # gradient of zeros rather than none: with several workers there is one in any case, and the optimizer counts its steps.
            idle: Tensor = value + 0.0 * pi.sum()
            return idle
        surrogate = selection.policy_loss(chosen, pi, self._advantages(rewards, usual))
        return value + (surrogate - surrogate.detach())

    def _scales(self, step: StepOutputs) -> tuple[float, ...]:
        """Each teacher's inverse temperature."""
        return step.teacher_inverse_temperature, *step.other_inverse_temperatures

    def _loss(self, step: StepOutputs, student: Tensor, teacher: Tensor, scale: float, valid: Tensor) -> Weighted:
        if self.objective == "mse":
            return logits.score_mse(student, teacher, valid, scale=scale)
        own, theirs = student * step.inverse_temperature, teacher * scale
        return logits.kl_divergence(own, theirs, valid, temperature=self.temperature)

    def _waits(self, step: StepOutputs) -> bool:
        return step.epoch < self.warmup_epochs

    def _chosen(self, pi: Tensor, step: StepOutputs) -> Tensor:
        """What is done, `(batch, teachers)` bool."""
        if self._waits(step):
            return torch.ones_like(pi, dtype=torch.bool)
        generator = torch.Generator().manual_seed(mix(self.seed, "teachers", step.step))
        return sent(torch.rand(pi.shape, generator=generator), pi.device) < pi.detach()

    def _rewards(self, missed: Tensor, divergence: Weighted) -> Tensor:
        """Of each example, or that of the batch for all of them; `(batch,)`."""
        if self.reward == "batch":
            return -missed.mean().expand_as(missed)
        return -missed - divergence.values.detach()

    def _advantages(self, rewards: Tensor, usual: Tensor) -> Tensor:
        # One number for all has no spread to be measured by.
        return rewards - usual if self.reward == "batch" else selection.advantages(rewards, usual)
