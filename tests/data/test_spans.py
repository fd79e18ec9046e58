"""Which piece each token of a text comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from raydistill.data.assembly import TextAssembler
from raydistill.data.texts import Texts
from raydistill.kg.store import Dataset
from raydistill.kg.text import TextRule

Assembler = Callable[..., TextAssembler]


def pieces(texts: Texts, number: int) -> list[list[int]]:
    """The token ids of each span of a text, in order; specials are of none."""
    start = int(texts.starts[number])
    here = slice(start, start + int(texts.lengths[number]))
    assert texts.spans is not None
    found: dict[int, list[int]] = {}
    for span, token, special in zip(
        texts.spans[here].tolist(), texts.tokens[here].tolist(), texts.special[here].tolist(), strict=True
    ):
        assert (span < 0) == special
        if not special:
            found.setdefault(span, []).append(token)
    return list(found.values())


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_spans_are_name_description_neighbours_and_relation(
    assembler_of: Assembler, tokenizers: dict[str, Any], dataset: Dataset, kind: str
) -> None:
    """Neighbouring tokens of two pieces taken for one, or one piece for two."""
    assembler = assembler_of(tokenizers[kind], dataset, rule=TextRule(max_neighbors=10))
    own = assembler.pieces
    ann = np.array([0])
    texts = assembler.query_texts(ann, np.array([0]))
    found = pieces(texts, 0)

    def tokens(piece: np.ndarray) -> list[int]:
        start = int(own.offsets[piece][0])
        return own.tokens[start : start + int(own.lengths(piece)[0])].tolist()

    neighbors = assembler.neighbors[
        assembler.neighbor_start[0] : assembler.neighbor_start[0] + assembler.neighbor_count[0]
    ]
    assert len(neighbors) > 1
    expected = [
        tokens(own.name_colon(ann)),
        tokens(own.description(ann)),
        *(tokens(own.inner_name(np.array([neighbor]))) for neighbor in neighbors),
        tokens(own.relation(np.array([0]))),
    ]
    assert found == expected


def test_spans_follow_their_texts(assembler_of: Assembler, tokenizers: dict[str, Any], dataset: Dataset) -> None:
    """Texts that are chosen, joined or masked, with the spans of others; a piece that is cut has fewer tokens, not others."""
    assembler = assembler_of(tokenizers["bert"], dataset)
    texts = assembler.entity_texts(np.array([0, 2, 4]))
    chosen = texts.select(torch.tensor([2, 0]))
    assert [pieces(chosen, 0), pieces(chosen, 1)] == [pieces(texts, 2), pieces(texts, 0)]
    joined = texts.select(torch.tensor([1])).followed_by(texts.select(torch.tensor([0])))
    assert [pieces(joined, 0), pieces(joined, 1)] == [pieces(texts, 1), pieces(texts, 0)]
    masked = texts.with_tokens(torch.zeros_like(texts.tokens))
    assert torch.equal(masked.spans, texts.spans)  # type: ignore[arg-type]
    short = assembler_of(tokenizers["bert"], dataset, max_tokens=12).entity_texts(np.array([2]))
    assert int(short.lengths[0]) == 12
    for cut, whole in zip(pieces(short, 0), pieces(texts, 1), strict=False):
        assert whole[: len(cut)] == cut
