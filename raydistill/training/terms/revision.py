"""MGSR's terms: the teacher's distribution where it is dense, at every place of a revised list; and neighbouring tokens of a span."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from raydistill.devices import sent
from raydistill.models.features import Needs
from raydistill.objectives import clipped, revision, spans
from raydistill.objectives.softmax import only_valid, valid_log_softmax
from raydistill.objectives.weighted import Weighted
from raydistill.training.outputs import Side, StepOutputs
from raydistill.training.randomness import mix
from raydistill.training.terms.scores import logit_rows
from raydistill.training.terms.term import OnView, Plain

HIGHEST, HIDDEN, HINGE = 32, 64, 10.0
"""Probabilities that the bounds are made from; units between; weight of the mass that is missing."""
OPENNESS, GAIN = 4.0, 8.0
"""How far open bounds begin, in logits; and by how much their network's outputs are multiplied, so that they get somewhere within some hundred steps."""


class Bounds(nn.Module):
    """Which part of a teacher's ranks to keep, from both models' probabilities: the teacher's highest, the student's of the same candidates, and both entropies.

    Nothing of it depends on the order of columns or on their number. It begins with everything let through.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * HIGHEST + 2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))
        last = self.layers[2]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.copy_(torch.tensor([-OPENNESS, OPENNESS]) / GAIN)

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Upper and lower bound of each row, `(batch,)` in [0, 1], the upper one first; from logits `(batch, candidates)`, to which no gradient goes."""
        logs = [valid_log_softmax(only_valid(scores.detach().float(), valid), valid) for scores in (teacher, student)]
        shares = [log_p.exp().masked_fill(~valid, 0.0) for log_p in logs]
        entropies = [-(share * log_p).sum(1, keepdim=True) for share, log_p in zip(shares, logs, strict=True)]
        count = min(HIGHEST, valid.shape[1])
        order = shares[0].topk(count, dim=1).indices
        highest = [nn.functional.pad(share.gather(1, order), (0, HIGHEST - count)) for share in shares]
        raw = (GAIN * self.layers(torch.cat([*highest, *entropies], dim=1))).sigmoid()
        return raw[:, 0], raw[:, 0] + (1 - raw[:, 0]) * raw[:, 1]


@dataclass(frozen=True)
class ClippedListTerm(Plain):
    """Divergence over the part of the candidates that learned bounds let through, mean over the places of the student's revised list (SCRG, DAC-KL).

    Args:
        weight: in the loss.
        bounds: trained by the same value, and held open by a hinge on the teacher's probability that they keep.
        length: places in a list.
        mass: probability below which what is kept costs.
        least: candidates that are kept whatever the bounds say.
        seed: of lists that are drawn at random, with the step: all workers, and a step that is taken again, draw alike; None = lists are the student's best.
    """

    weight: float
    bounds: Bounds
    length: int
    mass: float
    least: int
    seed: int | None = None
    name: str = "clipped"
    on: OnView = "clean"
    student_needs: Needs = Needs()
    teacher_needs: Needs | None = Needs()

    @property
    def own(self) -> nn.Module | None:
        """The bounds."""
        return self.bounds

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over the places at which examples have a candidate left, nats; and the hinge, which `kept/hinge` tells apart."""
        student, teacher, valid = logit_rows(step)
        positives = step.clean.batch.there("columns", valid.device)
        valid = valid.scatter(1, positives[:, None], True)
        noise = self._noise(student, step.step)
        revised = revision.revised_lists(student, teacher, valid, length=self.length, noise=noise)
        bounds, ranks = self.bounds(student, teacher, valid), clipped.teacher_ranks(teacher, valid)
        divergences, missing = [], []
        for place in range(revised.lists.shape[1]):
            gates = clipped.rank_gates(ranks, positives, valid, *bounds, least=self.least)
            divergence = clipped.clipped_divergence(student, teacher, gates, valid)
            mass = clipped.kept_mass(teacher, gates, valid)
            divergences.append(divergence)
            missing.append((self.mass - mass).clamp(min=0))
            if place == 0:
                step.notes["kept/mass"] = mass.detach().mean()
                step.notes["kept/candidates"] = ((gates.detach() > 0.5) & valid).sum(1).float().mean()
            drawn = revised.lists[:, place]
            valid = revision.without(valid, drawn) & revised.written[:, place, None]
            # Whoever stood below what was drawn moves up.
            ranks = ranks - (ranks > ranks.gather(1, drawn[:, None])).to(ranks.dtype)
        weights = torch.cat([divergence.weights for divergence in divergences])
        hinge = HINGE * Weighted(torch.cat(missing), weights).mean()
        step.notes["kept/hinge"] = hinge.detach()
        return Weighted(torch.cat([divergence.values for divergence in divergences]), weights).mean() + hinge

    def _noise(self, scores: Tensor, step: int) -> Tensor | None:
        if self.seed is None:
            return None
        generator = torch.Generator().manual_seed(mix(self.seed, "lists", step))
        return sent(revision.gumbel(torch.rand(scores.shape, generator=generator)), scores.device)


@dataclass(frozen=True)
class SpanTerm(Plain):
    """How the candidates that neighbouring tokens of a span point to agree, summed over both towers.

    Candidates are the batch's, and no gradient goes to their vectors: each worker compares its own texts' tokens alone.
    """

    weight: float
    student_layer: int
    teacher_layer: int
    distance: Literal["cosine", "squares"] = "cosine"
    name: str = "span"
    on: OnView = "clean"

    @property
    def student_needs(self) -> Needs:
        """The last layer."""
        return Needs(frozenset({self.student_layer}))

    @property
    def teacher_needs(self) -> Needs | None:
        """The last layer."""
        return Needs(frozenset({self.teacher_layer}))

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over neighbours, summed over towers."""
        columns = step.clean.batch.num_columns
        own = step.clean.candidate_vectors[:columns].detach().float()
        theirs = step.clean.teacher_vectors[1][:columns].float()

        def per_text(side: Side) -> Weighted:
            assert side.teacher is not None and side.texts.spans is not None
            student = nn.functional.normalize(side.student.states[self.student_layer].float(), dim=1) @ own.T
            teacher = nn.functional.normalize(side.teacher.states[self.teacher_layer].float(), dim=1) @ theirs.T
            return spans.span_correlation(
                student * step.inverse_temperature,
                teacher * step.teacher_inverse_temperature,
                side.texts.spans,
                side.texts.text_of_token,
                len(side.texts),
                distance=self.distance,
            )

        return step.clean.mean_over_texts(per_text)
