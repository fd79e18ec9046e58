"""Objectives that compare the tokens of a text with each other, on texts of like length at a time: their cost is quadratic in the longest one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from raydistill.data.micro_batches import micro_batches
from raydistill.data.texts import token_positions
from raydistill.devices import sent
from raydistill.objectives.weighted import Weighted
from raydistill.training.outputs import Side

TOKENS_AT_ONCE = 4096
Objective = Callable[[list[Tensor], Tensor, int], Weighted]
"""Takes what is known of some texts' tokens, the text of each token (on the CPU), and the number of texts."""


def by_like_length(side: Side, features: Sequence[Tensor], objective: Objective) -> Weighted:
    """An objective's value for each text of a side, in the order of its texts.

    Args:
        side: whose texts.
        features: (tokens, ...) each, in the order of the side's tokens.
        objective: given the same features of the texts that it is to look at.
    """
    device, lengths = side.student.vectors.device, side.texts.lengths
    parts = list(micro_batches(lengths, TOKENS_AT_ONCE))
    if not parts:
        # A worker without a text still has a part in the gradient.
        nothing = side.student.vectors.sum(1)
        return Weighted(nothing, nothing.detach())
    order = torch.cat(parts)
    # Moved once and then divided: the way back of a selection is as long as what it is selected from.
    tokens = sent(token_positions(side.texts.starts[order], lengths[order]), device)
    sizes = [int(lengths[part].sum()) for part in parts]
    divided = zip(*(torch.split(feature.index_select(0, tokens), sizes) for feature in features), strict=True)
    found = []
    for part, states in zip(parts, divided, strict=True):
        # It stays on the CPU, where the longest text is looked up (`padded_texts`).
        owner = torch.repeat_interleave(torch.arange(len(part)), lengths[part])
        found.append(objective(list(states), owner, len(part)))
    back = sent(torch.argsort(order), device)
    values, weights = (torch.cat(column)[back] for column in zip(*found, strict=True))
    return Weighted(values, weights)
