"""What a training loop carries along: how texts are corrupted, where it stands, and the vectors of earlier batches."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydistill.training.outputs import Earlier


@dataclass(frozen=True)
class Corruption:
    """How texts are corrupted: the ratio, the mask token, and whether all terms see the corrupted view or only those that ask."""

    ratio: float
    mask_id: int
    shared: bool


@dataclass
class Progress:
    """Where training stands, and the running averages of the epoch."""

    epoch: int = 0
    step_in_epoch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    examples: int = 0


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
            self.entities = [*self.entities, entities][-self.limit :]

    def earlier(self) -> Earlier | None:
        """The vectors as one table."""
        return Earlier(torch.cat(self.vectors)) if self.vectors else None

    def all_entities(self) -> NDArray[np.int64] | None:
        """The entities of that table's rows."""
        return np.concatenate(self.entities) if self.entities else None
