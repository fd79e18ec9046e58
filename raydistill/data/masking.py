"""One corrupted view: a share of the ordinary tokens of every text replaced by the mask token. Teacher and student see the same one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raydistill.data.texts import Texts, fingerprints, mixed


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
    keys = torch.rand(len(texts.tokens), generator=generator, dtype=torch.float64)
    return _lowest_masked(texts, ratio, mask_id, keys)


def fixed_view(texts: Texts, ratio: float, mask_id: int, seed: int) -> View:
    """As `corrupted_view`, but what is masked in a text depends on the text and the seed alone, whichever batch it is in.

    So a teacher's outputs for it may be computed once and kept.

    Args:
        texts: the clean texts.
        ratio: mask ratio, in [0, 1).
        mask_id: id of the mask token.
        seed: which corruption.
    """
    if ratio == 0:
        return clean_view(texts)
    texts = texts.afresh()
    owner = texts.text_of_token
    numbers = mixed(fingerprints(texts)[owner] + mixed((texts.place_of_token + 1) * 0x5851F42D4C957F2D + seed))
    # The upper bits are the better ones of such a mixture; a double holds 53.
    return _lowest_masked(texts, ratio, mask_id, ((numbers >> 11) & (2**53 - 1)).double() / 2**53)


def nested_view(texts: Texts, ratios: Tensor, mask_id: int, generator: torch.Generator) -> View:
    """As `corrupted_view`, but each text is masked at a ratio of its own, `(texts,)` in [0, 1].

    The order in which a text's tokens go comes from the generator alone: from equal states, a higher ratio masks what a lower one masks, and more.
    """
    keys = torch.rand(len(texts.tokens), generator=generator, dtype=torch.float64)
    return _lowest_masked(texts, ratios, mask_id, keys)


def _lowest_masked(texts: Texts, ratio: float | Tensor, mask_id: int, keys: Tensor) -> View:
    """Mask the ordinary tokens of each text that have the lowest keys, in [0, 1)."""
    texts = texts.afresh()
    owner, ordinary = texts.text_of_token, ~texts.special
    counts = torch.zeros(len(texts), dtype=torch.int64).index_add_(0, owner, ordinary.long())
    wanted = torch.round(counts.double() * ratio).long()
    # Special tokens come last. Sorting owner + key sorts within each text.
    order = torch.argsort(owner.double() + torch.where(ordinary, keys * 0.5, 0.75))
    rank = torch.empty_like(order)
    rank[order] = texts.place_of_token
    masked = rank < wanted[owner]
    return View(texts.with_tokens(torch.where(masked, mask_id, texts.tokens)), masked)
