from __future__ import annotations

from dataclasses import replace

import torch

from raydistill.data.masking import corrupted_view
from raydistill.data.texts import Texts, fingerprints


def test_select_gives_the_named_texts_in_the_named_order() -> None:
    """Tokens of one text given to another after sorting by length."""
    parts = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10]]
    tokens = torch.tensor([token for part in parts for token in part])
    texts = Texts(tokens, tokens * 10, tokens % 2 == 0, torch.tensor([len(part) for part in parts]))
    chosen = texts.select(torch.tensor([3, 0, 0, 1]))
    assert chosen.tokens.tolist() == [*parts[3], *parts[0], *parts[0], *parts[1]]
    assert torch.equal(chosen.types, chosen.tokens * 10)
    assert torch.equal(chosen.special, chosen.tokens % 2 == 0)
    assert chosen.lengths.tolist() == [4, 3, 3, 1]
    assert chosen.text_of_token.tolist() == [0] * 4 + [1] * 3 + [2] * 3 + [3]
    assert chosen.starts.tolist() == [0, 4, 7, 10]
    assert len(texts.select(torch.zeros(0, dtype=torch.int64))) == 0


def test_times_go_where_their_texts_go() -> None:
    """A text that is told another one's time after sorting by length."""
    tokens = torch.arange(6)
    texts = Texts(tokens, tokens, tokens < 0, torch.tensor([1, 3, 2])).at(torch.tensor([0.1, 0.2, 0.3]))
    order = torch.tensor([1, 2, 0])
    assert texts.times is not None
    assert torch.equal(texts.select(order).times, texts.times[order])  # type: ignore[arg-type]
    both = texts.select(order).followed_by(texts)
    assert torch.equal(both.times, torch.cat([texts.times[order], texts.times]))  # type: ignore[arg-type]
    assert torch.equal(texts.with_tokens(tokens + 1).times, texts.times)  # type: ignore[arg-type]


def test_what_texts_are_of_goes_where_they_go() -> None:
    """A text that gets the scores of another entity after sorting, sharing among workers, or masking."""
    tokens, ids = torch.arange(6), torch.tensor([[4, 0], [2, 5], [7, 3]])
    texts = Texts(tokens, tokens, tokens < 0, torch.tensor([1, 3, 2]), ids=ids)
    order = torch.tensor([1, 2, 0])
    assert torch.equal(texts.select(order).ids, ids[order])  # type: ignore[arg-type]
    assert torch.equal(texts.select(order).followed_by(texts).ids, torch.cat([ids[order], ids]))  # type: ignore[arg-type]
    assert texts.followed_by(Texts(tokens, tokens, tokens < 0, torch.tensor([6]))).ids is None
    masked = corrupted_view(texts.at(torch.zeros(3)), 0.5, 99, torch.Generator().manual_seed(0)).texts
    assert (masked.tokens == 99).any()
    assert torch.equal(masked.ids, ids)  # type: ignore[arg-type]
    assert torch.equal(fingerprints(texts), fingerprints(replace(texts, ids=None)))
