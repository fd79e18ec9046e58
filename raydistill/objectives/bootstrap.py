"""Distillation along a path of noise (BOOT): a teacher's path to its signal, one step of it, and a student that is taught by its own later self.

A path goes from time 1, all noise, to time 0, all signal: alpha = cos(pi t / 2) and sigma = sin(pi t / 2) are the shares of signal and noise. What a
teacher makes of the path at time t is f(t), and y(t) is the signal part of the path, which moves towards f:

    dy/dt = -lambda'(t) ( f(t) - y ),   lambda = -log(alpha / sigma)

Here f does not depend on y (in the paper it does), so the equation is linear, and its solution is an average of what the teacher makes of the path.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from raydistill.errors import ShapeError
from raydistill.objectives.checks import require_finite_teacher, require_mask, require_shape
from raydistill.objectives.hidden import comparable_states
from raydistill.objectives.weighted import Weighted


def noise_left(earlier: Tensor, later: Tensor) -> Tensor:
    """Return e^{lambda(s) - lambda(t)} = tan(pi s / 2) / tan(pi t / 2): the share of noise at time t that is still there at time s.

    Args:
        earlier: times s, in [0, 1); 0 gives exactly 0.
        later: times t, in (0, 1], the same shape, s <= t.

    Returns:
        In [0, 1], the same shape.

    Raises:
        ShapeError: a time t that is not above 0, or an s beyond its t, as far as they lie on the CPU.
    """
    require_shape("earlier", earlier, tuple(later.shape), "one for each later time")
    if not later.is_cuda and not bool(((later > 0) & (earlier >= 0) & (earlier <= later)).all()):
        raise ShapeError(
            "times of a path that do not go down to 0",
            expected="0 <= earlier <= later, and later above 0",
            consequence="noise would grow, or be divided by zero",
            remedy="draw later times above 0, and earlier ones below them",
        )
    s, t = earlier * (math.pi / 2), later * (math.pi / 2)
    return s.sin() * t.cos() / (s.cos() * t.sin())


def ddim_step(signal: Tensor, teacher: Tensor, earlier: Tensor, later: Tensor) -> Tensor:
    """Return the signal at an earlier time: exact while the teacher says the same.

        y(s) = y(t) + ( 1 - e^{lambda(s) - lambda(t)} ) ( f(t) - y(t) )

    Args:
        signal: (rows, ...) y at the later times.
        teacher: what the teacher makes of the path at the later times, the same shape.
        earlier: (rows,) times s.
        later: (rows,) times t.

    Source:
        DDIM (Song et al. 2021, arXiv 2010.02502), Eq. 12 without noise, x = alpha y + sigma epsilon solved for y; BOOT (arXiv 2306.05544). BOOT's formulas are
        known to us at second hand, and were derived anew from DDIM.
    """
    moved = 1 - noise_left(earlier, later)
    return signal + moved.view(-1, *[1] * (signal.ndim - 1)) * (teacher - signal)


def bootstrap(student: Tensor, student_later: Tensor, teacher: Tensor, earlier: Tensor, later: Tensor) -> Weighted:
    """Squared distance of the student at an earlier time from one DDIM step of the student at a later one, which gets no gradient.

        value_b = || g(s) - sg[ g(t) + ( 1 - e^{lambda(s) - lambda(t)} ) ( f(t) - g(t) ) ] ||^2

    Args:
        student: (rows, hidden) g at the earlier times.
        student_later: (rows, hidden) g at the later times; no gradient reaches it.
        teacher: (rows, hidden) f at the later times; no gradient reaches it.
        earlier: (rows,) times s.
        later: (rows,) times t.

    Returns:
        values (rows,), squared units of the states, summed over hidden units; weights 1.

    Raises:
        ShapeError: shapes that do not fit, or times that do not go down.
        NonFiniteLossError: the teacher gave NaN or infinity.

    Source:
        BOOT (Gu et al. 2023, arXiv 2306.05544), with weight 1 for all times; the paper's weights were not to be had.
    """
    target = bootstrap_target(student_later, teacher, earlier, later)
    student, target = comparable_states(student, target)
    values = (student - target).square().sum(dim=1)
    return Weighted(values, torch.ones_like(values))


def bootstrap_target(student_later: Tensor, teacher: Tensor, earlier: Tensor, later: Tensor) -> Tensor:
    """Return what the student is to say at the earlier times, (rows, hidden), without gradient; arguments and errors as in `bootstrap`."""
    own, theirs = comparable_states(student_later.detach(), teacher)
    require_shape("later", later, (own.shape[0],), "(rows,)")
    require_finite_teacher("vectors", theirs)
    return ddim_step(own, theirs, earlier.to(own), later.to(own))


def boundary(student: Tensor, teacher: Tensor, at_end: Tensor) -> Weighted:
    """Squared distance of the student from its teacher where the path begins, at the highest time.

    Args:
        student: (rows, hidden) g.
        teacher: (rows, hidden) f at the same times; no gradient reaches it.
        at_end: (rows,) bool, True = this row is at the highest time, and is compared.

    Returns:
        values (rows,), squared units of the states, summed over hidden units, 0 where not compared; weights 1 or 0.

    Raises:
        ShapeError: shapes that do not fit.
        NonFiniteLossError: the teacher gave NaN or infinity in a row that is compared.

    Source:
        BOOT (Gu et al. 2023, arXiv 2306.05544), boundary condition; its form is known to us at second hand.
    """
    student, teacher = comparable_states(student, teacher)
    require_mask("at_end", at_end, (student.shape[0],), "(rows,)")
    require_finite_teacher("vectors", teacher, at_end[:, None].expand_as(teacher))
    difference = (student - teacher).masked_fill(~at_end[:, None], 0.0)
    return Weighted(difference.square().sum(dim=1), at_end.to(difference.dtype))


def follow_path(teacher: Callable[[Tensor], Tensor], times: Tensor) -> Tensor:
    """Return the signal where a path ends that begins at what the teacher makes of its highest time: what a student learns without error.

    Args:
        teacher: what it makes of the path at a time, a scalar.
        times: (steps + 1,) falling, from the highest on.
    """
    signal = teacher(times[0])
    for later, earlier in itertools.pairwise(times):
        signal = ddim_step(signal[None], teacher(later)[None], earlier[None], later[None])[0]
    return signal
