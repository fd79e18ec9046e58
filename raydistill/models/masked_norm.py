"""LayerNorm of states of which some units are as good as gone: its mean and variance are those of the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaskedLayerNorm(nn.Module):
    """Takes the place of a LayerNorm, whose parameters it keeps, and normalises over units that stay only; the others come out as zero.

    To zero units is not to remove them where mean and variance run over all: outputs would change when they are removed in fact.

    Args:
        norm: the one in whose place it stands.
    """

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.whole = True
        # Changed in place, and not numbers: a compiled layer would be compiled anew for each.
        self.register_buffer("kept", torch.ones_like(norm.weight.detach()), persistent=False)
        self.register_buffer("share", torch.ones_like(norm.weight.detach()[0]) / len(norm.weight), persistent=False)

    def keep(self, mask: Tensor) -> None:
        """Normalise over these units from now on, `(units,)` bool, True = stays; some go."""
        assert isinstance(self.kept, Tensor) and isinstance(self.share, Tensor)
        self.whole = False
        self.kept.copy_(mask)
        self.share.copy_(mask.sum().to(self.share.dtype).reciprocal())

    def forward(self, states: Tensor) -> Tensor:
        """Of states `(..., units)`."""
        if self.whole:
            return nn.functional.layer_norm(states, self.weight.shape, self.weight, self.bias, self.eps)
        kept, share = self.kept, self.share
        assert isinstance(kept, Tensor) and isinstance(share, Tensor)
        states = states.to(self.weight.dtype) * kept
        centred = (states - states.sum(-1, keepdim=True) * share) * kept
        variance = centred.square().sum(-1, keepdim=True) * share
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias * kept

    def compacted(self, units: Tensor) -> nn.LayerNorm:
        """An ordinary LayerNorm of the units that stay, `(kept,)` positions; its parameters are put in by the caller."""
        return nn.LayerNorm(len(units), eps=self.eps, device=self.weight.device, dtype=self.weight.dtype)
