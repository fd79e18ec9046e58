"""Each text of a batch at a time of its own, and the path of noise along which a teacher sees it: the later, the more of it is masked (BOOT)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raydistill.data.batches import TripleBatch
from raydistill.data.masking import View, nested_view
from raydistill.data.texts import Texts
from raydistill.training.progress import Corruption
from raydistill.training.randomness import mix


@dataclass(frozen=True)
class NoisePath(Corruption):
    """The student is told times beside whole texts, the teacher reads texts masked at these times and is told nothing.

    A text's mask ratio at a time is the time; the order in which its tokens go is drawn anew in every step. `ratio` is the highest time.

    Attributes:
        delta: how far apart the two times of a text are.
        at_end: share of texts whose later time is the highest.
    """

    delta: float = 0.1
    at_end: float = 0.25

    def timed(self, batch: TripleBatch, step: int) -> TripleBatch:
        """Each text twice: all of them at their earlier times, and then all at their later ones; columns are at the earlier ones."""
        generator = torch.Generator().manual_seed(mix(self.seed, step, "times"))
        sides = (self._twice(texts, generator) for texts in (batch.queries, batch.candidates))
        return replace(batch, queries=next(sides), candidates=next(sides))

    def of(self, batch: TripleBatch, epoch: int, step: int) -> tuple[View, View]:
        """What the teacher reads: each text once, masked as its later time says."""
        generator = torch.Generator().manual_seed(mix(self.seed, step, "path"))
        return self._masked(batch.queries, generator), self._masked(batch.candidates, generator)

    def _twice(self, texts: Texts, generator: torch.Generator) -> Texts:
        # Above 0, where there is nothing to step down from: 1 - [0, 1).
        later = self.ratio * (1 - torch.rand(len(texts), generator=generator))
        later = torch.where(torch.rand(len(texts), generator=generator) < self.at_end, self.ratio, later)
        return texts.at((later - self.delta).clamp(min=0)).followed_by(texts.at(later))

    def _masked(self, texts: Texts, generator: torch.Generator) -> View:
        later = texts.select(torch.arange(len(texts) // 2, len(texts)))
        assert later.times is not None
        return nested_view(later, later.times, self.mask_id, generator)


def two_times(of_texts: Tensor) -> tuple[Tensor, Tensor]:
    """What belongs to texts at their earlier times, and at their later ones; each text stands twice (`NoisePath.timed`)."""
    earlier, later = of_texts.chunk(2)
    return earlier, later
