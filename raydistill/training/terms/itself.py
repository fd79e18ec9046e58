"""Terms of a student that teaches itself: its deep layer its shallow ones, and what it thought of the candidates before what it thinks now (SFR)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydistill.data.texts import Texts, fingerprints
from raydistill.devices import sent
from raydistill.models.biencoder import Tower
from raydistill.models.features import Needs
from raydistill.objectives import logits, transport
from raydistill.objectives.weighted import Weighted
from raydistill.training.outputs import Side, StepOutputs
from raydistill.training.terms.like_length import by_like_length
from raydistill.training.terms.remembered import RememberedVectors
from raydistill.training.terms.term import OnView, Plain, Ramp


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
        return step.clean.mean_over_texts(self._per_text)

    def _per_text(self, side: Side) -> Weighted:
        states = side.student.states

        def carried(parts: list[Tensor], owner: Tensor, count: int) -> Weighted:
            deep, found = self._grouped(parts[-1].detach().float()), []
            for shallow in parts[:-1]:
                own = shallow.float() if self.projection is None else self.projection(shallow.float())
                found.append(transport.self_transport(self._grouped(own), deep, owner, count))
            values = sum((one.values for one in found[1:]), found[0].values) / len(found)
            return Weighted(values, found[0].weights)

        return by_like_length(side, [states[layer] for layer in (*self.shallow, self.deep)], carried)

    def _grouped(self, states: Tensor) -> Tensor:
        return states if self.groups is None else states.view(len(states), self.groups, -1).mean(2)


@dataclass(frozen=True)
class EarlierSelfTerm(Plain):
    """Divergence from what the student thought of a row's candidates in the epoch before: half of it, as the rows are half of the contrastive term.

    With weights 1 - e and e of that term and this one, a row's target is (1 - e) the right answer and e that opinion (SFR's dynamic smoothing). The opinion is one of candidates
    that may be compared and were seen in the epoch before, without margin; columns are not smoothed.
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
        """Half the mean over examples, nats."""
        encoded, batch = step.clean, step.clean.batch
        device, columns = encoded.scores.device, torch.arange(batch.num_columns)
        self.memory.turn_to(step.epoch)
        # Heads that are self-negatives may be columns, too, and each text is to be kept once.
        queries, asked = self._turn("query", batch.queries, encoded.query_vectors)
        candidates, listed = self._turn(
            "entity", batch.candidates.select(columns), encoded.candidate_vectors[: len(columns)]
        )
        rows, k = batch.there("rows", device), step.inverse_temperature
        known = sent(asked, device)[rows][:, None] & sent(listed, device)[None, :]
        earlier = (queries.to(device) @ candidates.to(device).T)[rows] * k.detach()
        valid = batch.there("valid_rows", device) & known
        return (
            logits.kl_divergence(encoded.scores.index_select(0, rows) * k, earlier, valid, temperature=1.0).mean() / 2
        )

    def _turn(self, tower: Tower, texts: Texts, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """What was known of texts; and what is known now is kept for the next epoch."""
        keys = fingerprints(texts)
        self.memory.remember(tower, keys, vectors.detach())
        return self.memory.recall(tower, keys)
