"""What this machine's arithmetic does, and what a step of training has to do at least."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from raydistill.models.biencoder import BiEncoder, Precision

TURNS = 9
ROWS = {"cpu": 8192, "cuda": 131072}
"""Tokens in a product: so many that a device is as fast as it gets."""
AGAIN = {"cpu": 1, "cuda": 20}
"""Products between two looks at the clock. A GPU is done with a few in the time that it takes to hand them out and to hear of them."""


def waiting(device: torch.device) -> Callable[[], None] | None:
    """What waits for a device; None where nothing is queued."""
    return torch.cuda.synchronize if device.type == "cuda" else None


def seconds_of(work: Callable[[], Any], turns: int, device: torch.device | None = None) -> list[float]:
    """Seconds of each turn of some work, after one that is not counted."""
    return [seconds_once(work, device) for _ in range(turns + 1)][1:]


def seconds_once(work: Callable[[], Any], device: torch.device | None = None) -> float:
    """Seconds of some work, until the device is done with it."""
    wait = waiting(device) if device is not None else None
    began = time.perf_counter()
    work()
    if wait is not None:
        wait()
    return time.perf_counter() - began


def matrix_rate(hidden: int, inner: int, precision: Precision, device: torch.device) -> float:
    """Operations per second in the two products of a feed-forward layer, `(tokens, hidden) x (hidden, inner)` and back; the median of several."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    rows = ROWS[device.type]
    tokens = torch.randn(rows, hidden, device=device).to(kind)
    there, back = (torch.randn(*shape, device=device).to(kind) for shape in ((hidden, inner), (inner, hidden)))

    def products() -> None:
        for _ in range(AGAIN[device.type]):
            (tokens @ there) @ back

    with torch.no_grad():
        taken = seconds_of(products, TURNS, device)
    return 4.0 * AGAIN[device.type] * rows * hidden * inner / statistics.median(taken)


def operations_per_token(model: BiEncoder) -> int:
    """Multiplications and additions of a forward pass for one token: two for each weight of the layers' matrices.

    Attention's own products, which grow with the length of a text, are left out: at 50 tokens they are 1 % of these.
    """
    layers: nn.ModuleList = model.query_encoder.encoder.layer  # type: ignore[union-attr, assignment]
    return 2 * sum(weight.numel() for weight in layers.parameters() if weight.ndim == 2)


def floor_seconds(
    tokens: float, student: BiEncoder, rate: float, *, taught: float = 0, teacher: BiEncoder | None = None
) -> float:
    """Seconds a step cannot be faster than: a forward pass of the student and two more on the way back, and one of the teacher.

    Args:
        tokens: that the student reads in it.
        student: the model that learns.
        rate: operations per second.
        taught: tokens that the teacher reads.
        teacher: the model that it learns from, where it reads along; None = it does not, or its outputs are kept.
    """
    forward = taught * operations_per_token(teacher) if teacher is not None else 0
    return (forward + tokens * 3 * operations_per_token(student)) / rate
