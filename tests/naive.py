"""What several tests share that hold a term, or a list of it, to a slow one written out: a step to look at, the list, and the comparison."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raydistill.data.batches import TripleBatch
from raydistill.training.outputs import StepOutputs
from raydistill.training.trainer import Trainer

ROWS = [0, 1, 9, 3, 12, 4, 16]
"""Examples of the small graph among whose candidates are known other answers."""


def outputs_of(trainer: Trainer, batch: TripleBatch, epoch: int, step: int) -> StepOutputs:
    """What terms get to see of a batch."""
    return trainer._outputs(trainer._prepared(batch, epoch, step), trainer._student_pass(step, cached=False), step)


def naive_revision(
    student: Tensor, teacher: Tensor, allowed: list[int], length: int, noise: Tensor | None = None
) -> list[int]:
    """A row's revised list as docs/methods/mgsr.md tells it, one candidate at a time; from logits `(candidates,)`, of which some are allowed."""
    prefix: list[int] = []
    draws = student if noise is None else student + noise
    worst, mended = 0.0, None
    for _ in range(min(length, len(allowed))):
        left = [c for c in allowed if c not in prefix]
        p, q = teacher[left].softmax(0), student[left].softmax(0)
        choice, wanted = left[int(draws[left].argmax())], left[int(p.argmax())]
        apart = float((p * (p / q).log()).sum().detach())
        if choice != wanted and apart > worst:
            worst, mended = apart, [*prefix, wanted]
        prefix.append(choice)
    if mended is None:
        return prefix
    while len(mended) < len(prefix):
        left = [c for c in allowed if c not in mended]
        mended.append(left[int(draws[left].argmax())])
    return mended


def check_equal(fast: Tensor, slow: Tensor, leaves: Sequence[Tensor], *, rtol: float, gradient_rtol: float) -> None:
    """Values, and gradients at all leaves, of which none is left out of the slow one."""
    torch.testing.assert_close(fast.double(), slow.double(), atol=1e-5, rtol=rtol)
    expected = torch.autograd.grad(slow, leaves, retain_graph=True)
    for one, other in zip(torch.autograd.grad(fast, leaves, retain_graph=True), expected, strict=True):
        assert other.abs().max() > 1e-5
        torch.testing.assert_close(one, other, atol=1e-5, rtol=gradient_rtol)
