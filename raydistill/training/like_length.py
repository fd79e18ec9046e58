"""Objectives that compare the tokens of a text with each other, on texts of like length at a time: their cost is quadratic in the longest one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raydistill.data.texts import token_positions
from raydistill.devices import sent
from raydistill.models.biencoder import micro_batches
from raydistill.objectives.weighted import Weighted
from raydistill.training.outputs import Side

TOKENS_AT_ONCE = 4096
Objective = Callable[[Tensor, Tensor, int], Weighted]
"""Takes which of a side's tokens to look at, `(tokens,)`, the text of each of them, and the number of texts."""


def by_like_length(side: Side, objective: Objective) -> Weighted:
    """An objective's value for each text of a side, in the order of its texts."""
    device, lengths = side.student.vectors.device, side.texts.lengths
    order, found = [], []
    for part in micro_batches(lengths, TOKENS_AT_ONCE):
        tokens = sent(token_positions(side.texts.starts[part], lengths[part]), device)
        owner = sent(torch.repeat_interleave(torch.arange(len(part)), lengths[part]), device)
        order.append(part)
        found.append(objective(tokens, owner, len(part)))
    if not found:
        # A worker without a text still has a part in the gradient.
        nothing = side.student.vectors.sum(1)
        return Weighted(nothing, nothing.detach())
    back = sent(torch.argsort(torch.cat(order)), device)
    values, weights = (torch.cat(parts)[back] for parts in zip(*found, strict=True))
    return Weighted(values, weights)
