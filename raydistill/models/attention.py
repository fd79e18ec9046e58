"""Layers of a BERT-like encoder over texts laid end to end, with attention in groups of texts of equal or nearly equal length."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from raydistill.data.texts import Texts
from raydistill.devices import sent

Layer = Callable[[Any, Tensor, bool], tuple[Tensor, Tensor | None]]
"""Takes a layer and the states `(tokens, hidden)` before it, and gives those after it; and, where asked for, what its attention was computed from, `(tokens, 3, hidden)`."""
SHORTEST_SHARE = 0.8
"""A group with padding ends where a text would be shorter than this share of its longest: attention is a hundredth of the work, a group an overhead."""
ALIKE_TOKENS = 32
"""So many tokens of texts of one length are a group of their own on a processor: to pad them with others takes longer than a group more. A GPU would wait for each."""


class Operands(Protocol):
    """Changes what an attention multiplies. An encoder that wants it has one as `operands` of each attention; most have none."""

    def before(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Those of all tokens, `(tokens, hidden)` each."""
        ...

    def weighed(self, shares: Tensor) -> Tensor:
        """What each token takes of each, `(texts, heads, longest, longest)`, before dropout; padding takes something, and nothing is taken of it."""
        ...


def operands_of(own: Any) -> Operands | None:
    """What changes the operands of an attention; None = they are multiplied as they are."""
    return getattr(own, "operands", None)


def in_groups(texts: Texts, device: torch.device) -> Layer:
    """How states of these texts' tokens go through a layer.

    Args:
        texts: in falling order of length.
        device: of the states.
    """
    groups = list(_groups(texts, device))

    def through(layer: Any, hidden: Tensor, capture: bool) -> tuple[Tensor, Tensor | None]:
        own = layer.attention.self
        queries, keys, values = own.query(hidden), own.key(hidden), own.value(hidden)
        if (operands := operands_of(own)) is not None:
            queries, keys, values = operands.before(queries, keys, values)
        context = torch.cat([_attended(own, group, queries, keys, values) for group in groups])
        attended = layer.attention.output(context, hidden)
        after: Tensor = layer.output(layer.intermediate(attended), attended)
        return after, torch.stack([queries, keys, values], dim=1) if capture else None

    return through


@dataclass(frozen=True)
class _Group:
    """Texts next to each other, of equal or nearly equal length.

    Args:
        tokens: the run of their tokens.
        shape: texts, and tokens of the longest.
        places: `(tokens,)` where each token stands among the padded ones; None where no text is padded.
        absent: `(texts, 1, 1, longest)` bool, True = padding; None likewise.
    """

    tokens: slice
    shape: tuple[int, int]
    places: Tensor | None
    absent: Tensor | None

    def heads(self, states: Tensor, count: int) -> Tensor:
        """The states of the group's tokens by head, `(texts, heads, longest, width)`."""
        own = states[self.tokens]
        if self.places is not None:
            padded = own.new_zeros(self.shape[0] * self.shape[1], own.shape[1])
            own = padded.index_copy(0, self.places, own)
        return own.view(*self.shape, count, -1).transpose(1, 2)

    def flat(self, heads: Tensor) -> Tensor:
        """Back again, `(tokens, hidden)`."""
        padded = heads.transpose(1, 2).reshape(self.shape[0] * self.shape[1], -1)
        return padded if self.places is None else padded.index_select(0, self.places)


def runs_of_like_length(lengths: list[int], alike: float) -> Iterator[tuple[int, int]]:
    """Where groups of texts begin and end.

    Args:
        lengths: of texts, falling.
        alike: tokens of texts of one length that are a group of their own.
    """
    first = end = 0
    for length, run in itertools.groupby(lengths):
        count = len(list(run))
        alone = count * length >= alike
        if first < end and (alone or length < SHORTEST_SHARE * lengths[first]):
            yield first, end
            first = end
        end += count
        if alone:
            yield first, end
            first = end
    if first < end:
        yield first, end


def _groups(texts: Texts, device: torch.device) -> Iterator[_Group]:
    lengths, token = texts.lengths.tolist(), 0
    for first, last in runs_of_like_length(lengths, ALIKE_TOKENS if device.type == "cpu" else math.inf):
        longest = lengths[first]
        sizes = texts.lengths[first:last]
        count = int(sizes.sum())
        places = absent = None
        if lengths[last - 1] < longest:
            there = torch.arange(longest)[None, :] < sizes[:, None]
            places = sent(there.flatten().nonzero().flatten(), device)
            absent = sent(~there[:, None, None, :], device)
        yield _Group(slice(token, token + count), (last - first, longest), places, absent)
        token += count


def _attended(own: Any, group: _Group, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What the tokens of a group gather from each other, `(tokens, hidden)`."""
    count, drop = own.num_attention_heads, own.dropout.p if own.training else 0.0
    q, k, v = (group.heads(states, count) for states in (queries, keys, values))
    operands = operands_of(own)
    if q.is_cuda and operands is None:
        there = None if group.absent is None else ~group.absent
        fused = nn.functional.scaled_dot_product_attention(q, k, v, there, drop, scale=own.scaling)
        return group.flat(fused)
    # On a CPU the fused backward pass is slower for short texts.
    scores = (q * own.scaling) @ k.transpose(2, 3)
    if group.absent is not None:
        scores = scores.masked_fill(group.absent, -torch.inf)
    shares = scores.softmax(-1)
    if operands is not None:
        shares = operands.weighed(shares)
    return group.flat(nn.functional.dropout(shares, drop, own.training) @ v)
