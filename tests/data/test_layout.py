from __future__ import annotations

from typing import Any

import pytest

from raydistill.data.layout import TextLayout, split_budget
from raydistill.errors import EncoderError


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 7, 10, 11, 16])
def test_split_budget_cuts_as_the_tokenizers_library_does(tokenizers: dict[str, Any], budget: int) -> None:
    """A relation cut off where the tokenizer would have cut the description, or the other way round."""
    backend = tokenizers["bert"].backend_tokenizer
    backend.enable_truncation(budget + 3, strategy="longest_first")
    try:
        for first in range(14):
            for second in range(14):
                types = backend.encode("a " * first, "b " * second)
                kept = (types.tokens.count("a"), types.tokens.count("b"))
                assert split_budget(first, second, budget) == kept, (first, second, budget)
    finally:
        backend.no_truncation()


def test_frames_are_those_of_bert_and_roberta(tokenizers: dict[str, Any]) -> None:
    """Special tokens in the wrong place or with the wrong segment: the encoder was never shown such a text."""
    bert, roberta = (TextLayout.of_tokenizer(tokenizers[kind]) for kind in ("bert", "roberta"))
    ids = tokenizers["bert"].convert_tokens_to_ids
    cls, sep = ids("[CLS]"), ids("[SEP]")
    assert (bert.single.prefix, bert.single.middle, bert.single.suffix) == ((cls,), (), (sep,))
    assert (bert.pair.prefix, bert.pair.middle, bert.pair.suffix) == ((cls,), (sep,), (sep,))
    assert bert.pair.types == (0, 0, 0, 1, 1)
    assert (bert.mask_id, bert.pad_id) == (ids("[MASK]"), ids("[PAD]"))
    ids = tokenizers["roberta"].convert_tokens_to_ids
    start, end = ids("<s>"), ids("</s>")
    assert (roberta.pair.prefix, roberta.pair.middle, roberta.pair.suffix) == ((start,), (end, end), (end,))
    assert roberta.pair.types == (0, 0, 0, 0, 0)
    assert (roberta.single.num_special, roberta.pair.num_special) == (2, 4)


class _Tokenizer:
    """A tokenizer that frames and marks what it is told to."""

    pad_token_id = 0

    def __init__(self, mask: int | None, special: list[int]) -> None:
        self.mask_token_id, self.special = mask, special

    def __call__(self, *texts: str, **options: bool) -> dict[str, list[int]]:
        size = len(self.special)
        return {"input_ids": list(range(size)), "special_tokens_mask": self.special, "token_type_ids": [0] * size}


@pytest.mark.parametrize(
    ("tokenizer", "what"),
    [(_Tokenizer(None, [1, 0, 1]), "no mask or no padding token"), (_Tokenizer(4, [1, 0, 0, 1]), "2 ordinary tokens")],
)
def test_tokenizer_that_cannot_be_masked_or_framed_is_refused(tokenizer: _Tokenizer, what: str) -> None:
    """Training for days with an encoder whose tokens cannot be masked, or whose frame was misread."""
    with pytest.raises(EncoderError, match=what):
        TextLayout.of_tokenizer(tokenizer)
