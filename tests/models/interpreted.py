"""Tests of the kernel for short texts under triton's interpreter: on a processor, slowly, and number by number. See test_short_attention.py."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from raydistill.models.short_attention import attended

LENGTHS, HEADS, WIDTH, SCALE = (23, 17, 9, 5, 1), 3, 16, 0.25
BOUNDS = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def simple(states: Tensor, scale: float, bounds: Tensor = BOUNDS) -> Tensor:
    """Text by text."""
    found = []
    for begin, end in itertools.pairwise(bounds.tolist()):
        queries, keys, values = states[begin:end].unbind(1)
        shares = (torch.einsum("qhd,khd->hqk", queries, keys) * scale).softmax(-1)
        found.append(torch.einsum("hqk,khd->qhd", shares, values))
    return torch.cat(found)


def test_texts_see_what_they_see_in_the_simple_twin() -> None:
    """A text that sees its neighbour or the tile's empty rows; a gradient of keys where that of values should be."""
    found = []
    for way in (
        lambda states: attended(states, BOUNDS, max(LENGTHS), SCALE, 0.0),
        lambda states: simple(states, SCALE),
    ):
        states = drawn(sum(LENGTHS), 3, HEADS, WIDTH).requires_grad_()
        seen = way(states)
        found.append((seen, *torch.autograd.grad((seen * drawn(*seen.shape, seed=1)).sum(), [states])))
    for own, twin in zip(*found, strict=True):
        assert torch.allclose(own, twin, atol=1e-5)


def test_queries_keys_and_values_may_lie_apart() -> None:
    """States that are a part of a larger tensor, read as if they were whole."""
    wide = drawn(sum(LENGTHS), 3, HEADS, 2 * WIDTH)
    states = wide[..., :WIDTH]
    assert torch.allclose(attended(states, BOUNDS, max(LENGTHS), SCALE, 0.0), simple(states, SCALE), atol=1e-5)


@pytest.mark.parametrize(("lengths", "width"), [((128, 65, 0, 3), 64), ((33, 0, 32), 32)])
def test_longest_texts_and_empty_ones(lengths: tuple[int, ...], width: int) -> None:
    """A tile that is one row short, or a text without tokens that writes into its neighbour."""
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    states = drawn(sum(lengths), 3, 2, width)
    seen = attended(states, bounds, max(lengths), SCALE, 0.0)
    assert torch.allclose(seen, simple(states, SCALE, bounds), atol=1e-5)


def test_dropout_drops_the_share_asked_for_and_the_way_back_drops_the_same() -> None:
    """Another draw on the way back: gradients of a function that was not computed. Or a share that is not made up for."""
    states = drawn(sum(LENGTHS), 3, HEADS, WIDTH).requires_grad_()
    weights, direction, step = drawn(sum(LENGTHS), HEADS, WIDTH, seed=1), drawn(*states.shape, seed=2), 1e-2

    def value(of: Tensor) -> Tensor:
        torch.manual_seed(5)
        return (attended(of, BOUNDS, max(LENGTHS), SCALE, 0.3) * weights).sum()

    [gradient] = torch.autograd.grad(value(states), [states])
    with torch.no_grad():
        slope = (value(states + step * direction) - value(states - step * direction)) / (2 * step)
        assert float(slope) == pytest.approx(float((gradient * direction).sum()), rel=1e-2)
        ones = torch.zeros_like(states)
        ones[:, 2] = 1.0
        kept = attended(ones, BOUNDS, max(LENGTHS), SCALE, 0.3)
        assert float(kept.mean()) == pytest.approx(1.0, abs=0.1)
        assert float(kept.std()) > 0.1
        again = attended(ones, BOUNDS, max(LENGTHS), SCALE, 0.3)
        assert not torch.equal(kept, again)
