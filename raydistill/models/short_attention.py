"""Attention over texts laid end to end that are short: one block of a GPU for a text and a head, which holds all of its scores at once.

General kernels cut a text into tiles of 128 tokens and are made for those that have many; of texts of 30 tokens they fill a sixteenth of each tile. Here a tile is as
large as the longest text, so that softmax and dropout need nothing from outside of it, and the way back computes the shares once more instead of reading them.

Source:
    FlashAttention (arXiv 2205.14135) without its outer loop. The simple twin is `attention.py`.
"""

# Triton reads types of its own, and names constants of a kernel in capitals.
# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


def attended(states: Tensor, bounds: Tensor, longest: int, scale: float, drop: float) -> Tensor:
    """What the tokens of each text gather from each other, `(tokens, heads, width)`.

    Args:
        states: `(tokens, 3, heads, width)` queries, keys and values; width a power of two of at least 16.
        bounds: `(texts + 1,)` int32, where each text begins, and the number of tokens.
        longest: tokens of the longest text, at most 128: its scores have to fit into a block's registers.
        scale: of the scores.
        drop: share of the shares that is dropped.
    """
    seed = torch.randint(2**31 - 1, (1,), device=states.device) if drop > 0 else bounds[:1].long()
    seen: Tensor = _attended(states, bounds, seed, longest, scale, drop)
    return seen


@torch.library.custom_op("raydistill::short_attention", mutates_args=())
def _attended(states: Tensor, bounds: Tensor, seed: Tensor, longest: int, scale: float, drop: float) -> Tensor:
    states = states.contiguous()
    tokens, _, heads, width = states.shape
    gathered = torch.empty((tokens, heads, width), dtype=states.dtype, device=states.device)
    block, warps = _block(longest)
    grid = (bounds.shape[0] - 1, heads)
    _forward[grid](states, gathered, bounds, seed, scale, drop, heads, block, width, drop > 0, num_warps=warps)
    return gathered


@torch.library.custom_op("raydistill::short_attention_backward", mutates_args=())
def _backwards(
    gradient: Tensor, states: Tensor, bounds: Tensor, seed: Tensor, longest: int, scale: float, drop: float
) -> Tensor:
    states, (heads, width) = states.contiguous(), states.shape[2:]
    found = torch.empty_like(states, memory_format=torch.contiguous_format)
    block, warps = _block(longest)
    grid = (bounds.shape[0] - 1, heads)
    _backward[grid](gradient, states, found, bounds, seed, scale, drop, heads, block, width, drop > 0, num_warps=warps)
    return found


@_attended.register_fake
def _(states: Tensor, bounds: Tensor, seed: Tensor, longest: int, scale: float, drop: float) -> Tensor:
    return states.new_empty((states.shape[0], states.shape[2], states.shape[3]))


@_backwards.register_fake
def _(
    gradient: Tensor, states: Tensor, bounds: Tensor, seed: Tensor, longest: int, scale: float, drop: float
) -> Tensor:
    return torch.empty_like(states, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    states, bounds, seed, *ctx.settings = inputs
    ctx.save_for_backward(states, bounds, seed)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    return _backwards(gradient.contiguous(), *ctx.saved_tensors, *ctx.settings), None, None, None, None, None


_attended.register_autograd(_differentiate, setup_context=_keep)


def _block(longest: int) -> tuple[int, int]:
    """Side of the tile, and warps that share it."""
    block = max(16, triton.next_power_of_2(longest))
    return block, 2 if block <= 32 else 4


@triton.jit
def _places(bounds, heads, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Where a head of a text's tokens lies among the queries and in what they gather, how far keys are from queries, and which rows of the tile there are."""
    begin, end = tl.load(bounds + tl.program_id(0)), tl.load(bounds + tl.program_id(0) + 1)
    row, unit, apart = tl.arange(0, BLOCK), tl.arange(0, WIDTH), heads * WIDTH
    there = row < end - begin
    token = (begin + row).to(tl.int64)
    own = token[:, None] * (3 * apart) + tl.program_id(1) * WIDTH + unit[None, :]
    place = token[:, None] * apart + tl.program_id(1) * WIDTH + unit[None, :]
    return own, place, apart, there


@triton.jit
def _loaded(states, own, apart, there):
    """Queries, keys and values."""
    queries = tl.load(states + own, there[:, None], 0.0)
    keys = tl.load(states + own + apart, there[:, None], 0.0)
    values = tl.load(states + own + 2 * apart, there[:, None], 0.0)
    return queries, keys, values


@triton.jit
def _shares(queries, keys, scale, drop, seed, there, BLOCK: tl.constexpr, DROPS: tl.constexpr):
    """Softmax of the scores, and what dropout multiplies it with."""
    scores = tl.dot(queries, tl.trans(keys)) * scale
    scores = tl.where(there[None, :], scores, float("-inf"))
    shares = tl.exp(scores - tl.max(scores, 1)[:, None])
    shares = shares / tl.sum(shares, 1)[:, None]
    kept = tl.full((BLOCK, BLOCK), 1.0, tl.float32)
    if DROPS:
        place = tl.arange(0, BLOCK)
        own = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * BLOCK * BLOCK
        chance = tl.rand(seed, own + place[:, None] * BLOCK + place[None, :])
        kept = tl.where(chance < drop, 0.0, 1.0 / (1.0 - drop))
    return shares, kept


@triton.jit
def _forward(
    states,
    gathered,
    bounds,
    seeds,
    scale,
    drop,
    heads,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    DROPS: tl.constexpr,
):
    own, place, apart, there = _places(bounds, heads, BLOCK, WIDTH)
    queries, keys, values = _loaded(states, own, apart, there)
    shares, kept = _shares(queries, keys, scale, drop, tl.load(seeds), there, BLOCK, DROPS)
    found = tl.dot((shares * kept).to(values.dtype), values)
    tl.store(gathered + place, found.to(values.dtype), there[:, None])


@triton.jit
def _backward(
    gradient,
    states,
    found,
    bounds,
    seeds,
    scale,
    drop,
    heads,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    DROPS: tl.constexpr,
):
    own, place, apart, there = _places(bounds, heads, BLOCK, WIDTH)
    queries, keys, values = _loaded(states, own, apart, there)
    given = tl.load(gradient + place, there[:, None], 0.0)
    shares, kept = _shares(queries, keys, scale, drop, tl.load(seeds), there, BLOCK, DROPS)
    of_values = tl.dot(tl.trans((shares * kept).to(given.dtype)), given)
    of_shares = tl.dot(given, tl.trans(values)) * kept
    of_scores = shares * (of_shares - tl.sum(shares * of_shares, 1)[:, None]) * scale
    of_scores = of_scores.to(keys.dtype)
    tl.store(found + own, tl.dot(of_scores, keys).to(keys.dtype), there[:, None])
    tl.store(found + own + apart, tl.dot(tl.trans(of_scores), queries).to(keys.dtype), there[:, None])
    tl.store(found + own + 2 * apart, of_values.to(keys.dtype), there[:, None])
