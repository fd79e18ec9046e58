"""What a training loop carries along: how texts are corrupted, where it stands, and the vectors of earlier batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydistill.data.batches import TripleBatch
from raydistill.data.masking import View, corrupted_view, fixed_view
from raydistill.data.texts import Texts
from raydistill.students.reshaping import StructureChange, narrowed
from raydistill.training.outputs import Earlier
from raydistill.training.randomness import mix


@dataclass(frozen=True)
class Corruption:
    """How texts are corrupted.

    Attributes:
        ratio: of masked tokens.
        mask_id: the mask token.
        shared: whether all terms see the corrupted view, or only those that ask.
        seed: of the corruptions.
        number: corruptions of each text, taken in turns epoch by epoch; None = a new one each time.
    """

    ratio: float
    mask_id: int
    shared: bool
    seed: int = 0
    number: int | None = None

    def timed(self, batch: TripleBatch, step: int) -> TripleBatch:
        """A step's batch as the clean view has it: nobody is told a time."""
        return batch

    def of(self, batch: TripleBatch, epoch: int, step: int) -> tuple[View, View]:
        """The corrupted queries and candidates of a step; equal on all workers, so that each takes its share of one view."""
        if self.number is not None:
            return self.fixed(batch.queries, epoch), self.fixed(batch.candidates, epoch)
        generator = torch.Generator().manual_seed(mix(self.seed, step, -1))
        return (
            corrupted_view(batch.queries, self.ratio, self.mask_id, generator),
            corrupted_view(batch.candidates, self.ratio, self.mask_id, generator),
        )

    def fixed(self, texts: Texts, epoch: int) -> View:
        """How an epoch (from 0) sees a text, where its corruptions are numbered."""
        assert self.number is not None
        return fixed_view(texts, self.ratio, self.mask_id, mix(self.seed, "corruption", epoch % self.number))


@dataclass
class Progress:
    """Where training stands, and the running averages of the epoch."""

    epoch: int = 0
    step_in_epoch: int = 0
    sums: dict[str, Any] = field(default_factory=dict)
    """Numbers, and what is added up on a device: a scalar tensor each."""
    examples: int = 0

    def add(self, values: dict[str, Tensor]) -> None:
        """Add up a step's values where they are: to ask a device for each of them would be to wait for it."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.double()
        self.sums["steps"] = self.sums.get("steps", 0.0) + 1.0

    def count(self, examples: int, seconds: float) -> None:
        """A step more, of so many examples, which took so long."""
        self.step_in_epoch += 1
        self.examples += examples
        self.sums["seconds"] = self.sums.get("seconds", 0.0) + seconds

    def take_averages(self) -> dict[str, float]:
        """Means over the steps, which begin anew; gradient norms are of one step."""
        sums, self.sums = self.sums, {}
        examples, self.examples = self.examples, 0
        seconds = sums.pop("seconds", 0.0)
        steps = sums.pop("steps", 1.0)
        means = {key: float(value) / (1 if key.startswith("gradient_norm/") else steps) for key, value in sums.items()}
        return {**means, "seconds": seconds, "examples_per_second": examples / seconds if seconds else 0.0}


@dataclass
class EarlierEntities:
    """The entities of the last `limit` batches' candidates, newest last."""

    limit: int
    entities: list[NDArray[np.int64]] = field(default_factory=list)

    def push(self, entities: NDArray[np.int64]) -> None:
        """Keep a batch's columns and forget the oldest beyond the limit."""
        if self.limit:
            self.entities = [*self.entities, entities.copy()][-self.limit :]

    def all_entities(self) -> NDArray[np.int64] | None:
        """All of them, one batch after another."""
        return np.concatenate(self.entities) if self.entities else None


@dataclass
class PreBatch:
    """Candidate vectors of the last `limit` batches, newest last."""

    limit: int
    vectors: list[Tensor] = field(default_factory=list)
    entities: list[NDArray[np.int64]] = field(default_factory=list)

    def push(self, vectors: Tensor, entities: NDArray[np.int64]) -> None:
        """Keep a batch's columns and forget the oldest beyond the limit."""
        if self.limit:
            self.vectors = [*self.vectors, vectors.detach()][-self.limit :]
            # Copied, because the array may be a part of all that came with its batch.
            self.entities = [*self.entities, entities.copy()][-self.limit :]

    def follow(self, change: StructureChange) -> None:
        """Leave out of the vectors the units that a student has no more."""
        if change.units is not None:
            self.vectors = [narrowed(vectors, (None, change.units)) for vectors in self.vectors]

    def earlier(self) -> Earlier | None:
        """The vectors as one table."""
        return Earlier(torch.cat(self.vectors)) if self.vectors else None

    def entities_ahead(self) -> EarlierEntities:
        """The entities of that table's rows, for whoever puts batches together before the vectors are there."""
        return EarlierEntities(self.limit, list(self.entities))
