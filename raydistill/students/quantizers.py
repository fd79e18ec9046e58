"""Rounding numbers to a few levels, in the forward pass alone: on the way back the rounding is taken for the identity (straight-through).

Two kinds. Symmetric: 2^b - 1 evenly spaced levels from -limit to limit, zero among them; what lies beyond is clipped. Ternary (2 bits): -m, 0 and m.
A tensor is rounded as a whole, or each of its rows by itself.

What is computed with is always `codes * scale`, codes being whole numbers: whoever stores both gets back the same numbers, bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raydistill.errors import CapabilityError

TERNARY, FLOAT = 2, 32
ENTITY_BITS = (8, FLOAT)
"""Bits of a number that the vectors of a graph's entities may be kept in."""
SMALLEST_LIMIT = 1e-30
"""In place of 0, which nothing can be divided by; all that a tensor of zeros has is code 0."""
SHARE_OF_MEAN = 0.7
"""Of the mean magnitude: what lies below it becomes 0 in a ternary tensor."""


def highest_code(bits: int) -> int:
    """The code of the largest number: 127 of 8 bits, 32767 of 16, 1 of two.

    Raises:
        CapabilityError: not so many bits.
    """
    if not TERNARY <= bits <= 16:
        raise CapabilityError(
            f"{bits} bits",
            expected=f"2 (ternary) to 16, or {FLOAT} to leave numbers as they are",
            consequence="float32 could not hold the codes exactly",
            remedy="choose 2, 8 or 16 bits",
        )
    return int(2 ** (bits - 1)) - 1


def require_entity_bits(bits: int) -> None:
    """Refuse what entity vectors cannot be kept in.

    Raises:
        CapabilityError: other than 8 or 32 bits.
    """
    if bits not in ENTITY_BITS:
        raise CapabilityError(
            f"entity vectors in {bits} bits",
            expected=f"one of {', '.join(map(str, ENTITY_BITS))}",
            consequence="codes would not fit the bytes they are kept in",
            remedy="choose 8, or leave the vectors as they are",
        )


def rounded(weights: Tensor, bits: int, *, by_row: bool = False) -> Tensor:
    """Weights as they are computed with: rounded to levels that are made from themselves.

    Nothing is clipped, for the limit is the largest magnitude; so all of the gradient passes.

    Args:
        weights: float32, any shape; (rows, ...) where `by_row`.
        bits: 2 = ternary, up to 16 = symmetric, 32 = the weights themselves.
        by_row: whether each row has levels of its own.

    Source:
        DQ-BART (Li et al., ACL 2022, arXiv 2203.11239); ternary: Ternary Weight Networks (arXiv 1605.04711). The public code clips at 2.5 here too.
    """
    if bits == FLOAT:
        return weights
    passed: Tensor = _Rounded.apply(weights, bits, by_row)  # type: ignore[no-untyped-call]
    return passed


def clipped(values: Tensor, limit: Tensor, bits: int) -> Tensor:
    """Values rounded to symmetric levels between -limit and limit.

    The gradient is that of clipping: 1 where |value| <= limit, 0 beyond. The error is at most half a step, limit / (2^b - 2), inside.

    Args:
        values: float32, any shape.
        limit: scalar >= 0, without gradient.
        bits: 2 to 16 (here 2 bits are the three levels -limit, 0, limit), 32 = the values themselves.
    """
    if bits == FLOAT:
        return values
    passed: Tensor = _Clipped.apply(values, limit, bits)  # type: ignore[no-untyped-call]
    return passed


def codes_of(weights: Tensor, bits: int, *, by_row: bool = False) -> tuple[Tensor, Tensor]:
    """What `rounded` is made of: codes, whole numbers in float32 of the shape of `weights`, and the scale, a scalar or `(rows,)`."""
    flat = weights.reshape(weights.shape[0], -1) if by_row else weights.reshape(1, -1)
    sizes = flat.abs()
    if bits == TERNARY:
        # In double precision, so that the order in which a device adds does not show.
        kept = sizes > (SHARE_OF_MEAN * sizes.double().mean(1, keepdim=True)).float()
        count = kept.sum(1).clamp(min=1)
        scale = ((sizes * kept).double().sum(1) / count).float()
        codes = flat.sign() * kept
    else:
        scale = _step(sizes.amax(1), bits)
        codes = _codes(flat, scale[:, None], bits)
    return codes.view_as(weights), scale if by_row else scale[0]


def value_of(codes: Tensor, scale: Tensor) -> Tensor:
    """Numbers from codes, of any type, and a scale: a scalar, or one for each row."""
    return codes.float() * scale.view(-1, *[1] * (codes.ndim - 1)) if scale.ndim else codes.float() * scale


def _step(limit: Tensor, bits: int) -> Tensor:
    return limit.clamp(min=SMALLEST_LIMIT) / highest_code(bits)


def _codes(values: Tensor, step: Tensor, bits: int) -> Tensor:
    highest = highest_code(bits)
    return (values / step).round().clamp(-highest, highest)


class _Rounded(torch.autograd.Function):
    """See `rounded`."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, bits: int, by_row: bool) -> Tensor:
        return value_of(*codes_of(weights, bits, by_row=by_row))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


class _Clipped(torch.autograd.Function):
    """See `clipped`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, limit: Tensor, bits: int) -> Tensor:
        if ctx.needs_input_grad[0]:
            # The largest value itself is inside: it must be able to shrink.
            ctx.save_for_backward(values.abs() <= limit)
        step = _step(limit, bits)
        return value_of(_codes(values, step, bits), step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        [inside] = ctx.saved_tensors
        return gradients[0] * inside, None, None
