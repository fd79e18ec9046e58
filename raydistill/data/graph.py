"""A graph's texts as an encoder reads them: dataset, tokenizer and text rule brought together."""

from __future__ import annotations

from typing import Any

from raydistill.data.assembly import TextAssembler
from raydistill.data.layout import TextLayout
from raydistill.data.tokens import load_or_tokenize
from raydistill.kg.store import Dataset
from raydistill.kg.text import TextRule


def text_assembler(
    dataset: Dataset, tokenizer: Any, tokenizer_fingerprint: str, *, rule: TextRule, max_tokens: int
) -> TextAssembler:
    """The assembler of a graph's texts for one encoder; the pieces are tokenised once and kept beside the dataset."""
    pieces = load_or_tokenize(dataset, tokenizer, tokenizer_fingerprint)
    return TextAssembler(pieces, dataset, TextLayout.of_tokenizer(tokenizer), rule, max_tokens)
