"""Terms of a student that teaches itself: its deep layer its shallow ones, and what it thought of the candidates before what it thinks now (SFR)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from raydistill.data.texts import Texts, fingerprints
from raydistill.devices import sent
from raydistill.models.biencoder import Tower
from raydistill.models.features import Needs
from raydistill.objectives import logits, transport
from raydistill.objectives.weighted import Weighted
from raydistill.training.like_length import by_like_length
from raydistill.training.outputs import Side, StepOutputs
from raydistill.training.remembered import RememberedVectors
from raydistill.training.terms import OnView, Plain, Ramp


@dataclass(frozen=True)
class SelfTransportTerm(Plain):
    """What it costs to carry the token states of shallow layers to those of a deep one, mean over the shallow ones, summed over both towers.

    Args:
        weight: in the loss.
        shallow: layers that learn.
        deep: the layer that teaches; no gradient reaches it.
        groups: channels are averaged in so many groups first, so that several are tied to one; None = each by itself.
        projection: what shallow states go through before they are compared; None = nothing.
    """

    weight: float
    shallow: tuple[int, ...]
    deep: int
    groups: int | None = None
    projection: nn.Linear | None = None
    name: str = "transport"
    on: OnView = "clean"
    teacher_needs: Needs | None = None

    @property
    def own(self) -> nn.Module | None:
        """The projection."""
        return self.projection

    @property
    def student_needs(self) -> Needs:
        """All these layers."""
        return Needs(frozenset({*self.shallow, self.deep}))

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over texts, squared units of the states, summed over towers."""
        queries, candidates = step.clean.over_all(self._per_text)
        return queries.mean() + candidates.mean()

    def _per_text(self, side: Side) -> Weighted:
        deep = self._grouped(side.student.states[self.deep].detach().float())

        def carried(tokens: Tensor, owner: Tensor, count: int) -> Weighted:
            found = []
            for layer in self.shallow:
                states = side.student.states[layer][tokens].float()
                states = states if self.projection is None else self.projection(states)
                found.append(transport.self_transport(self._grouped(states), deep[tokens], owner, count))
            values = sum((one.values for one in found[1:]), found[0].values) / len(found)
            return Weighted(values, found[0].weights)

        return by_like_length(side, carried)

    def _grouped(self, states: Tensor) -> Tensor:
        return states if self.groups is None else states.view(len(states), self.groups, -1).mean(2)


@dataclass(frozen=True)
class EarlierSelfTerm(Plain):
    """Divergence from what the student thought of a row's candidates when it last saw them: a target that is smoothed by its own opinion.

    With weights 1 - e and e, the contrastive term and this one have the gradient of a cross entropy whose target is (1 - e) the right answer and e that opinion. Candidates that may not
    be compared are in neither. What was not seen before does not count.
    """

    weight: float
    ramp: Ramp
    memory: RememberedVectors
    name: str = "earlier_self"
    on: OnView = "clean"
    student_needs: Needs = Needs()
    teacher_needs: Needs | None = None

    @property
    def own(self) -> nn.Module | None:
        """What it remembers."""
        return self.memory

    def weight_at(self, epoch: int) -> float:
        """Rising along the ramp."""
        return self.weight * self.ramp.at(epoch)

    def value(self, step: StepOutputs) -> Tensor:
        """Mean over examples, nats."""
        encoded, batch = step.clean, step.clean.batch
        device, columns = encoded.scores.device, batch.num_columns
        (queries, asked) = self._turn(step, "query", batch.queries, encoded.query_vectors)
        (candidates, listed) = self._turn(step, "entity", batch.candidates, encoded.candidate_vectors)
        candidates, listed = candidates[:columns], listed[:columns]
        rows = sent(batch.rows, device)
        k = step.inverse_temperature
        known = sent(asked, device)[rows][:, None] & sent(listed, device)[None, :]
        earlier = (queries.to(device) @ candidates.to(device).T)[rows] * k.detach()
        valid = sent(batch.valid_rows, device) & known
        return logits.kl_divergence(encoded.scores[rows] * k, earlier, valid, temperature=1.0).mean()

    def _turn(self, step: StepOutputs, tower: Tower, texts: Texts, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """What was known of texts, before what is known now takes its place."""
        keys = fingerprints(texts)
        known = self.memory.recall(step.step, tower, keys)
        self.memory.remember(step.step, tower, keys, vectors.detach())
        return known
