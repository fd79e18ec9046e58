"""Texts that are not in the graph, framed and cut as an entity's or a query's are (`TextAssembler`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from raydistill.data.texts import Texts
from raydistill.kg.text import inverse_phrase
from raydistill.kg.triples import IntArray


def new_texts(tokenizer: Any, max_tokens: int, texts: Sequence[str], phrases: Sequence[str] | None = None) -> Texts:
    """Texts as an encoder reads them.

    Args:
        tokenizer: the encoder's.
        max_tokens: tokens per text, specials included.
        texts: at least one.
        phrases: of the relations beside them, for queries; None = texts of entities.
    """
    encoded = tokenizer(
        [" ".join(text.split()) for text in texts],
        None if phrases is None else list(phrases),
        truncation="longest_first",
        max_length=max_tokens,
        return_token_type_ids=True,
        return_special_tokens_mask=True,
    )
    columns = ("input_ids", "token_type_ids", "special_tokens_mask")
    tokens, types, special = (torch.from_numpy(np.concatenate(encoded[name]).astype(np.int64)) for name in columns)
    return Texts(tokens, types, special.bool(), torch.tensor([len(row) for row in encoded["input_ids"]]))


def phrases_of(relations: IntArray, phrases: Sequence[str]) -> list[str]:
    """The words of relations, `(queries,)`, inverses from `len(phrases)` on."""
    count = len(phrases)
    return [phrases[one] if one < count else inverse_phrase(phrases[one - count]) for one in relations.tolist()]
