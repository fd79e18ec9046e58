"""Rounding to levels: its error, its levels, and its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raydistill.errors import CapabilityError
from raydistill.students.quantized import QuantizedEmbedding
from raydistill.students.quantizers import clipped, codes_of, rounded, value_of

CLIP = torch.tensor(2.5)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_error_of_eight_bits_is_at_most_half_a_step_inside_the_clip() -> None:
    """The card's 0.009842 <= 0.0098425: a scale that is off by one level, or truncation in the place of rounding (twice the error)."""
    values = gaussian(200_000).clamp(-2.5, 2.5)
    error = (clipped(values, CLIP, 8) - values).abs().max().item()
    half = 2.5 / 127 / 2
    assert half == pytest.approx(0.0098425, abs=1e-7)
    assert 0.98 * half < error <= half * (1 + 1e-5)


@pytest.mark.parametrize(("bits", "levels"), [(8, 255), (4, 15), (2, 3)])
def test_there_are_no_more_levels_than_bits_allow(bits: int, levels: int) -> None:
    """A 256th level, which int8 could not hold on the positive side; levels that are not symmetric, so that zero is none."""
    found = clipped(gaussian(200_000), CLIP, bits).unique()
    assert len(found) == levels
    assert 0.0 in found
    assert torch.equal(found, -found.flip(0))


def test_what_lies_beyond_the_clip_becomes_the_highest_level() -> None:
    """Codes that run over and come back with the other sign."""
    values = torch.tensor([2.6, 100.0, -1e9])
    assert clipped(values, CLIP, 8).tolist() == pytest.approx([2.5, 2.5, -2.5])


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_rounding_again_changes_nothing_but_last_digits(bits: int) -> None:
    """Numbers that wander from level to level each time they are stored."""
    once = clipped(gaussian(50_000), CLIP, bits)
    assert torch.equal(clipped(once, CLIP, bits), once)
    weights = rounded(gaussian(300, 64), bits, by_row=True)
    assert torch.equal(codes_of(weights, bits, by_row=True)[0], codes_of(gaussian(300, 64), bits, by_row=True)[0])
    # Levels are made anew from what was rounded: the largest of a row, the mean of what is kept, are as they were but for the last digit.
    torch.testing.assert_close(rounded(weights, bits, by_row=True), weights, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [2, 8])
def test_each_token_has_levels_of_its_own_in_any_shape(bits: int) -> None:
    """Texts side by side whose tokens share one scale, where the same tokens in a row have one each."""
    plain = torch.nn.Embedding(40, 8)
    quantised = QuantizedEmbedding(plain, bits)
    tokens = torch.randint(40, (3, 5), generator=torch.Generator().manual_seed(0))
    assert torch.equal(quantised(tokens), quantised(tokens.flatten()).view(3, 5, 8))
    assert not torch.equal(quantised(tokens), rounded(plain(tokens), bits, by_row=True))


def test_ternary_has_three_values_and_the_mean_of_what_is_kept() -> None:
    """A threshold on the wrong mean, or a magnitude that counts the zeros too: all weights would be too small."""
    weights = gaussian(64, 48)
    kept = weights.abs() > 0.7 * weights.abs().mean()
    found = rounded(weights, 2)
    magnitude = weights.abs()[kept].mean()
    assert len(found.unique()) == 3
    torch.testing.assert_close(found, weights.sign() * kept * magnitude, rtol=1e-6, atol=0)
    by_hand = rounded(torch.tensor([1.0, -3.0, 0.1, 5.0]), 2)  # mean 2.275, threshold 1.5925, kept 3 and 5
    assert by_hand.tolist() == [0.0, -4.0, 0.0, 4.0]


@pytest.mark.parametrize("bits", [2, 8])
def test_rows_have_scales_of_their_own(bits: int) -> None:
    """One frequent word with large numbers that makes zeros of all rare ones."""
    table = torch.stack([gaussian(16) * 1e-3, gaussian(16, seed=1) * 1e3, torch.zeros(16)])
    found = rounded(table, bits, by_row=True)
    for row, alone in zip(found, table, strict=True):
        assert torch.equal(row, rounded(alone, bits))
    assert bool(found[0].any())
    assert not bool(found[2].any())


def test_gradient_is_one_inside_and_zero_outside_the_clip() -> None:
    """Gradients that push clipped values on for ever, or a largest value that can never shrink."""
    values = torch.tensor([-2.6, -2.5, -0.01, 0.0, 1.3, 2.5, 2.5001], requires_grad=True)
    weight = torch.tensor([1.0, 2, 3, 4, 5, 6, 7])
    (clipped(values, CLIP, 8) * weight).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 2, 3, 4, 5, 6, 0]


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_all_of_the_gradient_reaches_weights(bits: int) -> None:
    """Weights that became 0, or the largest one, and never learn again: their limit is made from themselves."""
    weights = gaussian(5, 7).requires_grad_()
    coming = gaussian(5, 7, seed=3)
    (rounded(weights, bits) * coming).sum().backward()
    assert weights.grad is not None
    assert torch.equal(weights.grad, coming)


def test_sixteen_bits_lose_next_to_nothing_with_a_clip_that_fits() -> None:
    """The published fixed clip of 2.5: on the same data its error is about 2, however many bits there are."""
    values = gaussian(100_000)
    largest = values.abs().max()
    error = (clipped(values, largest, 16) - values).abs().max() / largest
    assert error <= 1e-4
    fixed = (clipped(values, CLIP, 16) - values).abs().max()
    assert fixed.item() == pytest.approx(float(largest) - CLIP.item(), abs=1e-4)
    assert fixed > 1.5
    assert (rounded(values, 16) - values).norm() / values.norm() <= 1e-4


def test_thirty_two_bits_are_the_numbers_themselves() -> None:
    """A format that is named lossless and is not."""
    values = gaussian(100)
    assert rounded(values, 32) is values
    assert clipped(values, torch.tensor(0.1), 32) is values


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_codes_are_whole_numbers_that_give_the_values_back(bits: int) -> None:
    """A checkpoint that holds nearly what was computed with."""
    weights = gaussian(40, 12)
    for by_row in (False, True):
        codes, scale = codes_of(weights, bits, by_row=by_row)
        assert torch.equal(codes, codes.round())
        assert codes.abs().max() <= 2 ** (bits - 1) - 1
        assert scale.shape == ((40,) if by_row else ())
        assert torch.equal(value_of(codes.to(torch.int16), scale), rounded(weights, bits, by_row=by_row))


def test_zeros_stay_zeros() -> None:
    """The row of padding is zero in every encoder: a scale of 0 would make NaN of it."""
    for bits in (2, 8, 16):
        assert not rounded(torch.zeros(3, 4), bits).any()
    assert not clipped(torch.zeros(3), torch.tensor(0.0), 8).any()


@pytest.mark.parametrize("bits", [0, 1, 17, 31])
def test_numbers_of_bits_that_are_not_possible_are_refused(bits: int) -> None:
    """Two levels, or codes that float32 cannot hold."""
    with pytest.raises(CapabilityError, match=f"{bits} bits"):
        clipped(torch.ones(2), CLIP, bits)
