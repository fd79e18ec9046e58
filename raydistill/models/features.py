"""What a term may ask a tower for. Asking here is the only way to see inside a model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Needs:
    """Layers whose token states are wanted, zero-based; nothing is captured that is not named.

    Args:
        layers: which.
        masked_only: whether the states of masked tokens are enough; those of the others may then be anything.
    """

    layers: frozenset[int] = frozenset()
    masked_only: bool = False

    def __or__(self, other: Needs) -> Needs:
        wholly = any(one.layers and not one.masked_only for one in (self, other))
        return Needs(self.layers | other.layers, masked_only=not wholly)


@dataclass(frozen=True)
class TowerOutput:
    """One tower's outputs for a `Texts`.

    Args:
        vectors: pooled, L2-normalised, `(texts, hidden)` float32.
        states: token states per captured layer, flat `(tokens, hidden)` in the order of the texts' tokens.
    """

    vectors: Tensor
    states: dict[int, Tensor]
