"""Flat token states to a table of texts: what objectives need that compare the tokens of a text with each other."""

from __future__ import annotations

import torch
from torch import Tensor

from raydistill.devices import sent


def padded_texts(states: Tensor, text_of_token: Tensor, num_texts: int) -> tuple[Tensor, Tensor]:
    """States by text, padded with zeros to the longest.

    Args:
        states: (tokens, hidden).
        text_of_token: (tokens,) int64, the text of each token, in any order; the tokens of a text keep theirs. It may lie on the CPU whatever the
            states lie on: how long the longest text is would otherwise be a wait for the GPU.
        num_texts: number of texts; one may have no token.

    Returns:
        (num_texts, longest, hidden) with gradient, and (num_texts, longest) bool, True = a token stands there.
    """
    order = torch.argsort(text_of_token, stable=True)
    owner, sizes = text_of_token[order], torch.bincount(text_of_token, minlength=num_texts)
    place = torch.arange(len(order), device=owner.device) - (torch.cumsum(sizes, 0) - sizes)[owner]
    longest = max(1, int(sizes.max())) if num_texts else 1
    there = torch.arange(longest, device=owner.device)[None, :] < sizes[:, None]
    order, row, there = (sent(part, states.device) for part in (order, owner * longest + place, there))
    table = states.new_zeros(num_texts * longest, states.shape[1]).index_copy(0, row, states[order])
    return table.view(num_texts, longest, states.shape[1]), there
