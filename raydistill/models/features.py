"""What a term may ask a tower for. Asking here is the only way to see inside a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

EMBEDDINGS = -1
"""The layer below the first one: what the layers are given."""


@dataclass(frozen=True)
class QKV:
    """Queries, keys and values of a layer's attention, of all heads side by side: `(tokens, 3, hidden)`."""

    layer: int


Feature = int | QKV
"""Token states after a layer, by its number from zero, `(tokens, hidden)`; or what its attention is computed from."""


def in_order(features: Iterable[Feature]) -> tuple[Feature, ...]:
    """States first, then what attentions are computed from, each by layer."""
    return tuple(sorted(features, key=lambda one: (1, one.layer) if isinstance(one, QKV) else (0, one)))


def columns_of(features: Sequence[Feature]) -> dict[Feature, slice]:
    """Where each stands when they are put side by side, `(tokens, columns, hidden)`: one column for states, three for an attention."""
    widths = [3 if isinstance(one, QKV) else 1 for one in features]
    ends = list(accumulate(widths))
    return {one: slice(end - width, end) for one, width, end in zip(features, widths, ends, strict=True)}


@dataclass(frozen=True)
class Needs:
    """What is wanted of each token; nothing is captured that is not named.

    Args:
        layers: of which layers, and what.
        masked_only: whether the states of masked tokens are enough; those of the others may then be anything.
        others: of a teacher, whether the vectors of those who teach beside it are wanted, too.
    """

    layers: frozenset[Feature] = frozenset()
    masked_only: bool = False
    others: bool = False

    def __or__(self, other: Needs) -> Needs:
        wholly = any(one.layers and not one.masked_only for one in (self, other))
        return Needs(self.layers | other.layers, not wholly, self.others or other.others)


@dataclass(frozen=True)
class TowerOutput:
    """One tower's outputs for a `Texts`.

    Args:
        vectors: pooled, L2-normalised, `(texts, hidden)` float32.
        states: what was captured, flat in the order of the texts' tokens, `(tokens, hidden)` or as `QKV` says.
        others: vectors of those who teach beside it, each `(texts, hidden)` with a width of its own; not normalised where they are rows of tables.
    """

    vectors: Tensor
    states: dict[Feature, Tensor]
    others: tuple[Tensor, ...] = ()
