"""BERT-like encoders over texts laid end to end: no padding anywhere but in attention, and there hardly any.

All of an encoder but its attention looks at one token at a time, so the tokens of all texts go through it as one long matrix: large products are what a
processor is fast at, and each weight is converted to bfloat16 once. For attention the texts, in order of length, are put together in groups of nearly
equal length. The simple twin is `transformers`' own forward pass over padded texts, which is also what any other kind of encoder takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.data.texts import Texts

KINDS = ("bert", "roberta", "xlm-roberta", "camembert")
SHORTEST_SHARE = 0.8
"""A group ends where a text would be shorter than this share of the group's longest: attention is a hundredth of the work, a group an overhead."""


def can_be_packed(encoder: nn.Module) -> bool:
    """Whether an encoder is of a kind whose parts we know."""
    config: Any = encoder.config
    return config.model_type in KINDS and not config.is_decoder and hasattr(encoder, "encoder")


def packed_states(encoder: nn.Module, texts: Texts, layers: frozenset[int]) -> tuple[Tensor, dict[int, Tensor]]:
    """Token states after the last layer, and after those asked for, each `(tokens, hidden)` in the order of the texts' tokens.

    Args:
        encoder: one that `can_be_packed`.
        texts: in falling order of length, on the encoder's device.
        layers: whose states are wanted, zero-based.

    Raises:
        IndexError: a layer that the encoder does not have.
    """
    model: Any = encoder
    groups = list(_groups(texts))
    hidden, states = _embedded(model, texts), {}
    for number, layer in enumerate(model.encoder.layer):
        own = layer.attention.self
        queries, keys, values = own.query(hidden), own.key(hidden), own.value(hidden)
        context = torch.cat([_attended(own, group, queries, keys, values) for group in groups])
        attended = layer.attention.output(context, hidden)
        hidden = layer.output(layer.intermediate(attended), attended)
        if number in layers:
            states[number] = hidden
    if len(states) < len(layers):
        raise IndexError(f"layers {sorted(layers - states.keys())} of an encoder with {len(model.encoder.layer)}")
    return hidden, states


@dataclass(frozen=True)
class _Group:
    """Texts next to each other, of nearly equal length.

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


def _groups(texts: Texts) -> Iterator[_Group]:
    lengths, device = texts.lengths.tolist(), texts.tokens.device
    first = token = 0
    while first < len(lengths):
        longest, last = lengths[first], first
        while last < len(lengths) and lengths[last] >= SHORTEST_SHARE * longest:
            last += 1
        sizes = texts.lengths[first:last]
        count = int(sizes.sum())
        places = absent = None
        if lengths[last - 1] < longest:
            there = torch.arange(longest)[None, :] < sizes[:, None]
            places, absent = there.flatten().nonzero().flatten().to(device), ~there[:, None, None, :].to(device)
        yield _Group(slice(token, token + count), (last - first, longest), places, absent)
        first, token = last, token + count


def _embedded(model: Any, texts: Texts) -> Tensor:
    parts = model.embeddings
    device = texts.tokens.device
    place = torch.arange(len(texts.tokens), device=device) - texts.starts.to(device)[texts.text_of_token.to(device)]
    if model.config.model_type != "bert":
        # RoBERTa counts from one beyond its padding token.
        place = place + parts.padding_idx + 1
    words = parts.word_embeddings(texts.tokens) + parts.token_type_embeddings(texts.types)
    embedded: Tensor = parts.dropout(parts.LayerNorm(words + parts.position_embeddings(place)))
    return embedded


def _attended(own: Any, group: _Group, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What the tokens of a group gather from each other, `(tokens, hidden)`."""
    count, drop = own.num_attention_heads, own.dropout.p if own.training else 0.0
    q, k, v = (group.heads(states, count) for states in (queries, keys, values))
    if q.is_cuda:
        there = None if group.absent is None else ~group.absent
        fused = nn.functional.scaled_dot_product_attention(q, k, v, there, drop, scale=own.scaling)
        return group.flat(fused)
    # On a CPU the fused backward pass is slower for short texts.
    scores = (q * own.scaling) @ k.transpose(2, 3)
    if group.absent is not None:
        scores = scores.masked_fill(group.absent, -torch.inf)
    shares = nn.functional.dropout(scores.softmax(-1), drop, own.training)
    return group.flat(shares @ v)
