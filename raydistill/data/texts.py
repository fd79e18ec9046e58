"""Texts of a batch as ragged token rows: every distinct text once, no padding. Padding is the encoder's business."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydistill.devices import KeepsSent

NO_RELATION = -1


@dataclass(frozen=True)
class Texts(KeepsSent):
    """A ragged batch of texts. What is worked out of its fields is kept with it.

    Args:
        tokens: token ids, flat `(tokens,)` int64, text after text.
        types: segment ids, `(tokens,)` int64.
        special: `(tokens,)` bool, True = special token (never masked).
        lengths: `(texts,)` int64, tokens of each text.
        spans: `(tokens,)` int64, a number for each piece that a text was put together from (name, description, a neighbour's name, relation), -1 for special
            tokens; None where that is not known.
        times: `(texts,)` float32, what a student is told of each text beside its tokens (`models/conditioning.py`); None = nothing, which is time 0.
        ids: `(texts, 2)` int64, the entity and the relation that each text is of, inverses from num_relations on, NO_RELATION in an entity's text; None where
            a text is of no entity of the graph. No model that reads looks at them.
    """

    tokens: Tensor
    types: Tensor
    special: Tensor
    lengths: Tensor
    spans: Tensor | None = None
    times: Tensor | None = None
    ids: Tensor | None = None

    def __len__(self) -> int:
        return int(self.lengths.shape[0])

    @cached_property
    def starts(self) -> Tensor:
        """Position of each text's first token, `(texts,)`."""
        return torch.cumsum(self.lengths, 0) - self.lengths

    @cached_property
    def text_of_token(self) -> Tensor:
        """Which text each token belongs to, `(tokens,)` int64."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.lengths.device), self.lengths)

    @cached_property
    def place_of_token(self) -> Tensor:
        """Where each token stands in its text, from 0, `(tokens,)` int64."""
        return torch.arange(len(self.tokens), device=self.lengths.device) - self.starts[self.text_of_token]

    @cached_property
    def bounds(self) -> Tensor:
        """Where each text begins, and the number of tokens, `(texts + 1,)` int32."""
        return nn.functional.pad(torch.cumsum(self.lengths, 0), (1, 0)).to(torch.int32)

    @cached_property
    def types_told_apart(self) -> int:
        """One more than the highest type."""
        return int(self.types.max()) + 1

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return int(self.lengths.max())

    def select(self, indices: Tensor) -> Texts:
        """The texts at `indices`, in that order."""
        if len(indices) == len(self) and is_in_place(indices):
            return self
        lengths = self.lengths[indices]
        positions = token_positions(self.starts[indices], lengths)
        spans = None if self.spans is None else self.spans[positions]
        times, ids = (None if one is None else one[indices] for one in (self.times, self.ids))
        return Texts(self.tokens[positions], self.types[positions], self.special[positions], lengths, spans, times, ids)

    def followed_by(self, others: Texts) -> Texts:
        """These texts, and others after them."""
        return Texts(
            torch.cat([self.tokens, others.tokens]),
            torch.cat([self.types, others.types]),
            torch.cat([self.special, others.special]),
            torch.cat([self.lengths, others.lengths]),
            None if self.spans is None or others.spans is None else torch.cat([self.spans, others.spans]),
            None if self.times is None or others.times is None else torch.cat([self.times, others.times]),
            None if self.ids is None or others.ids is None else torch.cat([self.ids, others.ids]),
        )

    def at(self, times: Tensor) -> Texts:
        """The same texts, each at a time of its own."""
        return replace(self, times=times)

    def afresh(self) -> Texts:
        """The same texts, for whoever works something out of texts that last, and would leave it with them."""
        return replace(self)

    def with_tokens(self, tokens: Tensor) -> Texts:
        """The same shape with other token ids (a corrupted view)."""
        return replace(self, tokens=tokens)


def is_in_place(order: Tensor) -> bool:
    """Whether an order of things, `(things,)` int64, leaves each where it is."""
    return torch.equal(order, torch.arange(len(order), device=order.device))


def token_positions(starts: Tensor, lengths: Tensor) -> Tensor:
    """Flat positions of the runs `[start, start + length)`, one after another."""
    shift = starts - (torch.cumsum(lengths, 0) - lengths)
    return torch.repeat_interleave(shift, lengths) + torch.arange(int(lengths.sum()), device=lengths.device)


def runs(start: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
    """As `token_positions`, for arrays of `(runs,)`."""
    shift = start - (np.cumsum(length) - length)
    return np.repeat(shift, length) + np.arange(int(length.sum()))


def fingerprints(texts: Texts) -> Tensor:
    """A 64-bit number per text that depends on every token and its place, `(texts,)` int64.

    Two different texts share one with a chance of about 2**-64 per pair: ten million texts collide with a chance of about 3 in a million.
    """
    texts = texts.afresh()
    places = (texts.place_of_token + 1) * 0x5851F42D4C957F2D
    numbers = mixed((texts.tokens + 1) * 0x9E3779B97F4A7C1 + places + texts.types)
    return torch.zeros(len(texts), dtype=torch.int64).index_add_(0, texts.text_of_token, numbers)


def mixed(numbers: Tensor) -> Tensor:
    """Numbers whose every bit depends on every bit of the given ones (int64, overflow and all)."""
    numbers = (numbers ^ (numbers >> 29)) * 0x3F58476D1CE4E5B9
    numbers = (numbers ^ (numbers >> 32)) * 0x14D049BB133111EB
    return numbers ^ (numbers >> 31)
