"""How an encoder's tokenizer frames a text and a pair of texts: the special tokens before, between and after, and their segment ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raydistill.errors import EncoderError


@dataclass(frozen=True)
class Frame:
    """Special tokens around one or two segments of text, as token ids, and the segment id of each part."""

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    types: tuple[int, int, int, int, int]
    """Segment ids of prefix, first text, middle, second text, suffix."""

    @property
    def num_special(self) -> int:
        """Special tokens that every text of this frame spends."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)


@dataclass(frozen=True)
class TextLayout:
    """Frames of an entity text (one segment) and of a query text (head text, relation phrase), and the ids a batch needs."""

    single: Frame
    pair: Frame
    mask_id: int
    pad_id: int

    @classmethod
    def of_tokenizer(cls, tokenizer: Any) -> TextLayout:
        """Read the frames off what the tokenizer does to a probe, so that BERT's and RoBERTa's templates need no case each.

        Raises:
            EncoderError: the tokenizer has no mask or padding token, or frames a pair in a way that is not prefix-text-middle-text-suffix.
        """
        if tokenizer.mask_token_id is None or tokenizer.pad_token_id is None:
            raise EncoderError(
                "the encoder's tokenizer has no mask or no padding token",
                expected="a BERT- or RoBERTa-like tokenizer",
                consequence="tokens could not be masked",
                remedy="choose an encoder trained with masked language modelling",
            )
        return cls(
            single=_frame(tokenizer, ("a",)),
            pair=_frame(tokenizer, ("a", "b")),
            mask_id=tokenizer.mask_token_id,
            pad_id=tokenizer.pad_token_id,
        )


def _frame(tokenizer: Any, texts: tuple[str, ...]) -> Frame:
    encoded = tokenizer(*texts, return_special_tokens_mask=True, return_token_type_ids=True)
    ids, special, types = encoded["input_ids"], encoded["special_tokens_mask"], encoded["token_type_ids"]
    runs = [position for position, flag in enumerate(special) if not flag]
    if len(runs) != len(texts):
        raise EncoderError(
            f"the probe {texts} became {len(runs)} ordinary tokens",
            expected=f"{len(texts)}",
            remedy="use a WordPiece or byte-level BPE encoder",
        )
    first, last = runs[0], runs[-1]
    middle = tuple(ids[first + 1 : last]) if len(texts) == 2 else ()
    middle_type = types[first + 1] if middle else 0
    suffix = tuple(ids[last + 1 :])
    return Frame(
        prefix=tuple(ids[:first]),
        middle=middle,
        suffix=suffix,
        types=(types[0], types[first], middle_type, types[last], types[-1]),
    )


def split_budget(first: int, second: int, budget: int) -> tuple[int, int]:
    """Tokens kept of each segment of a pair when together they may hold `budget`: the longer one is cut first.

    Equals the `longest_first` truncation of the tokenizers library, so that texts put together from pieces are the tokenizer's own.
    """
    if first + second <= budget:
        return first, second
    shorter = min(first, second)
    if shorter > budget:
        longer = shorter
    else:
        longer = max(shorter, budget - shorter)
    if shorter + longer > budget:
        shorter, longer = budget // 2, budget // 2 + budget % 2
    return (longer, shorter) if first > second else (shorter, longer)
