"""What a tower may be told of a text beside its tokens: a time, as a vector that is added to the embeddings of all of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.models.temporary import Temporary

CONDITIONING = "conditioning"
"""Of an encoder's embeddings: what turns times into vectors, where there is such a thing."""
FREQUENCIES = 16
HIGHEST = 64.0
"""Half turns between times 0 and 1 of the fastest sinusoid; the slowest makes one."""


class TimeEmbedding(Temporary):
    """Times to vectors, exactly zero at time 0: there a tower is what it is without.

    Sinusoids less what they are at 0, two matrices, no bias, and between them a function that is 0 at 0. The second matrix begins at zero, so that a
    student begins as if it were told nothing.

    Args:
        width: of a vector.
    """

    waves: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        speeds = math.pi * HIGHEST ** torch.linspace(0, 1, FREQUENCIES)
        self.register_buffer("waves", speeds, persistent=False)
        self.inner = nn.Linear(2 * FREQUENCIES, width, bias=False)
        self.outer = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.outer.weight)

    def forward(self, times: Tensor) -> Tensor:
        """Vectors `(texts, width)` of times `(texts,)`."""
        angles = times[:, None].to(self.waves.dtype) * self.waves
        seen = torch.cat([angles.sin(), angles.cos() - 1], dim=1)
        vectors: Tensor = self.outer(nn.functional.silu(self.inner(seen)))
        return vectors


def conditioned(encoder: nn.Module) -> TimeEmbedding:
    """Give an encoder of a kind that `packed.py` knows an embedding of times, on its device."""
    parts: Any = encoder
    weight = parts.embeddings.position_embeddings.weight
    embedding = TimeEmbedding(weight.shape[1]).to(weight.device)
    parts.embeddings.add_module(CONDITIONING, embedding)
    return embedding
