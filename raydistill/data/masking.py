"""One corrupted view: a share of the ordinary tokens of every text replaced by the mask token. Teacher and student see the same one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raydistill.data.texts import Texts


@dataclass(frozen=True)
class View:
    """Texts as a model sees them, and which of their tokens are masked (`(tokens,)` bool, True = masked)."""

    texts: Texts
    masked: Tensor


def clean_view(texts: Texts) -> View:
    """The texts as they are."""
    return View(texts, torch.zeros_like(texts.special))


def corrupted_view(texts: Texts, ratio: float, mask_id: int, generator: torch.Generator) -> View:
    """Mask `round(ratio * ordinary tokens)` tokens of every text, drawn without replacement among its ordinary tokens.

    Args:
        texts: the clean texts.
        ratio: mask ratio, in [0, 1).
        mask_id: id of the mask token.
        generator: source of randomness; equal states give equal views.

    Source:
        PMD (arXiv 2401.12997) section 3.2. The public code draws with replacement, counts special tokens into the length and rounds down, so that
        texts under 20 tokens are never masked at 5 %; we draw without replacement among ordinary tokens and round to the nearest (half to even).
    """
    if ratio == 0:
        return clean_view(texts)
    owner = texts.text_of_token
    ordinary = ~texts.special
    counts = torch.zeros(len(texts), dtype=torch.int64).index_add_(0, owner, ordinary.long())
    wanted = torch.round(counts.double() * ratio).long()
    # A random key in [0, 1) orders the ordinary tokens of a text; special tokens come last. Sorting owner + key sorts within each text.
    keys = torch.rand(owner.shape[0], generator=generator, dtype=torch.float64)
    keys = torch.where(ordinary, keys * 0.5, 0.75)
    order = torch.argsort(owner.double() + keys)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.shape[0]) - texts.starts[owner]
    masked = rank < wanted[owner]
    return View(texts.with_tokens(torch.where(masked, mask_id, texts.tokens)), masked)
