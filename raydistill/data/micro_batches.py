"""Texts in parts that are encoded at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PADDING_SHARE, PADDING_TOKENS = 0.05, 64


def micro_batches(lengths: Tensor, tokens: int, *, padded: bool = True) -> Iterator[Tensor]:
    """Positions of texts in parts, each of at least one text: longest first, but texts that take no padding and are one part stay in their order.

    A part ends where its size would pass `tokens`; where texts are padded to the longest of their part, its padded size, and also where its padding
    would pass PADDING_SHARE of it (PADDING_TOKENS in small parts, where a pass of its own would cost more than the padding).
    """
    if not padded and 0 < int(lengths.sum()) <= tokens:
        yield torch.arange(len(lengths))
        return
    order = longest_first(lengths)
    sizes = lengths[order].tolist()
    start, real = 0, 0
    for end, size in enumerate(sizes):
        whole = (end - start + 1) * sizes[start] if padded else real + size
        padding = whole - real - size
        if end > start and (whole > tokens or padding > max(PADDING_TOKENS, PADDING_SHARE * whole)):
            yield order[start:end]
            start, real = end, 0
        real += size
    if sizes:
        yield order[start:]


def longest_first(lengths: Tensor) -> Tensor:
    """Positions of texts in falling order of length; those of equal length stay in theirs."""
    return torch.argsort(lengths, descending=True, stable=True)
