from __future__ import annotations

import itertools

import pytest
import torch

from raydistill.data.masking import clean_view, corrupted_view, fixed_view, nested_view
from raydistill.data.texts import Texts

MASK = 7
RATIOS = (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 1 / 3, 0.5, 0.75, 0.9, 0.99)


def texts_of(lengths: list[int], specials: list[list[int]]) -> Texts:
    """Texts of these lengths whose special tokens are at these places."""
    special = torch.zeros(sum(lengths), dtype=torch.bool)
    start = 0
    for length, places in zip(lengths, specials, strict=True):
        special[[start + place for place in places]] = True
        start += length
    tokens = torch.arange(100, 100 + sum(lengths))
    return Texts(tokens, torch.zeros_like(tokens), special, torch.tensor(lengths))


@pytest.fixture
def texts() -> Texts:
    """Every length from 3 to 50, framed as one text and as a pair, and texts of special tokens alone."""
    lengths = [*range(3, 51), *range(5, 51), 2, 3]
    frames = [*([0, n - 1] for n in range(3, 51)), *([0, n // 2, n - 1] for n in range(5, 51)), [0, 1], [0, 1, 2]]
    return texts_of(lengths, frames)


@pytest.mark.parametrize("ratio", RATIOS)
def test_number_of_masked_tokens_is_the_rounded_share_of_ordinary_tokens(texts: Texts, ratio: float) -> None:
    """Too few masks (the public code masks no text under 20 tokens at 5 %), a token drawn twice, or a special token masked."""
    for seed in range(5):
        view = corrupted_view(texts, ratio, MASK, torch.Generator().manual_seed(seed))
        lengths = texts.lengths.tolist()
        parts = zip(view.masked.split(lengths), texts.special.split(lengths), strict=True)
        counted = [(int(masked.sum()), round(ratio * int((~special).sum()))) for masked, special in parts]
        assert [count for count, _ in counted] == [wanted for _, wanted in counted]
        assert not (view.masked & texts.special).any()
        assert torch.equal(view.texts.tokens, texts.tokens.masked_fill(view.masked, MASK))


def test_only_tokens_change(texts: Texts) -> None:
    """A view whose texts no longer line up with the teacher's token by token."""
    view = corrupted_view(texts, 0.5, MASK, torch.Generator().manual_seed(0))
    assert view.texts.types is texts.types
    assert view.texts.special is texts.special
    assert view.texts.lengths is texts.lengths
    assert texts.tokens.tolist() == list(range(100, 100 + len(texts.tokens))), "the clean texts were changed"


def test_equal_generators_mask_equal_tokens_and_others_do_not(texts: Texts) -> None:
    """A resumed run that masks other tokens, or an epoch that masks the same ones as the last."""
    one, same, other = (corrupted_view(texts, 0.3, MASK, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.masked, same.masked)
    assert not torch.equal(one.masked, other.masked)


def test_masks_do_not_touch_the_global_generator(texts: Texts) -> None:
    """Masks drawn from the global generator would differ between workers, whose dropout differs."""
    state = torch.get_rng_state()
    corrupted_view(texts, 0.3, MASK, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_every_ordinary_token_is_masked_equally_often() -> None:
    """Tokens at one end of a text that are never, or always, masked."""
    texts = texts_of([12] * 600, [[0, 6, 11]] * 600)
    view = corrupted_view(texts, 1 / 3, MASK, torch.Generator().manual_seed(3))
    share = view.masked.view(600, 12).double().mean(0)
    ordinary = [place for place in range(12) if place not in (0, 6, 11)]
    assert share[[0, 6, 11]].tolist() == [0, 0, 0]
    # Three of nine tokens: the deviation of a mean over 600 texts is about 0.019.
    assert (share[ordinary] - 1 / 3).abs().max() < 0.08


def test_ratio_zero_and_a_clean_view_mask_nothing(texts: Texts) -> None:
    """A grade without masking that masks, or draws from the generator."""
    for view in (corrupted_view(texts, 0.0, MASK, torch.Generator()), clean_view(texts)):
        assert not view.masked.any()
        assert view.texts is texts


def test_numbered_corruption_of_a_text_is_the_same_in_every_batch(texts: Texts) -> None:
    """What is kept of a teacher would be of another corruption than the one the student sees."""
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
    whole, turned = fixed_view(texts, 0.3, MASK, 5), fixed_view(texts.select(order), 0.3, MASK, 5)
    assert torch.equal(whole.texts.select(order).tokens, turned.texts.tokens)
    other = fixed_view(texts, 0.3, MASK, 6)
    assert not torch.equal(whole.masked, other.masked)
    assert bool((whole.masked & texts.special).any()) is False


def test_numbered_corruptions_mask_every_place_equally_often() -> None:
    """A mixture of bits that prefers the beginnings of texts, or the same place in every corruption."""
    length, count, seeds = 12, 40, 200
    texts = texts_of([length] * count, [[0, length - 1]] * count)
    hits = torch.stack([fixed_view(texts, 0.2, MASK, seed).masked.view(count, length) for seed in range(seeds)])
    share = hits.double().mean((0, 1))[1:-1]
    # 2 of 10 tokens are masked; the standard error of each place's share is 0.0045.
    assert bool((share - 0.2).abs().max() < 0.02)
    together = (hits[:, :, 1:-1].double().sum(0) / seeds).flatten()
    assert bool((together - 0.2).abs().max() < 0.15)


def test_higher_ratios_mask_what_lower_ones_mask_and_more(texts: Texts) -> None:
    """A path of noise on which a token comes back, or texts that all go at one pace."""
    count = len(texts)
    views = [
        nested_view(texts, torch.full((count,), ratio), MASK, torch.Generator().manual_seed(4))
        for ratio in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    for low, high in itertools.pairwise(views):
        assert not bool((low.masked & ~high.masked).any())
        assert bool((high.masked & ~low.masked).any())
    assert not bool(views[0].masked.any())
    assert torch.equal(views[-1].masked, ~texts.special)
    ratios = torch.linspace(0, 1, count)
    each = nested_view(texts, ratios, MASK, torch.Generator().manual_seed(4))
    ordinary = torch.zeros(count).index_add_(0, texts.text_of_token, (~texts.special).float())
    masked = torch.zeros(count).index_add_(0, texts.text_of_token, each.masked.float())
    assert torch.equal(masked, torch.round(ordinary.double() * ratios.double()).float())
