from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from raydistill.errors import NonFiniteLossError, ShapeError
from raydistill.objectives.bootstrap import (
    bootstrap,
    bootstrap_target,
    boundary,
    ddim_step,
    follow_path,
    noise_left,
)


def rising(times: Tensor) -> Tensor:
    """A teacher that says 1 + 2t."""
    return 1 + 2 * times


def test_ddim_identity() -> None:
    """A step that is not DDIM's: the student would follow another path than its teacher's.

    Twin: DDIM moves x = alpha y + sigma eps by predicting y as f and keeping the noise that f leaves in x; the signal part of what comes out is y(s).
    """
    generator = torch.Generator().manual_seed(0)
    y, f, eps = (torch.randn(200, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    later = 0.02 + 0.97 * torch.rand(200, generator=generator, dtype=torch.float64)
    earlier = later * torch.rand(200, generator=generator, dtype=torch.float64)
    alpha, sigma = ((lambda t, of=of: of(t * math.pi / 2)[:, None]) for of in (torch.cos, torch.sin))
    # Along its path x has noise eps beside its signal y; DDIM reads another noise off it, with f in place of y.
    x = alpha(later) * y + sigma(later) * eps
    read = (x - alpha(later) * f) / sigma(later)
    moved = alpha(earlier) * f + sigma(earlier) * read
    signal = (moved - sigma(earlier) * eps) / alpha(earlier)
    assert float((ddim_step(y, f, earlier, later) - signal).abs().max()) <= 1e-6


def test_step_to_time_zero_arrives_at_the_teacher() -> None:
    """A division by zero where all noise is gone, or a student that is taught itself there."""
    y, f = torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, -1.0]])
    assert torch.equal(noise_left(torch.tensor([0.0]), torch.tensor([0.3])), torch.tensor([0.0]))
    assert torch.equal(ddim_step(y, f, torch.tensor([0.0]), torch.tensor([0.3])), f)
    assert torch.equal(ddim_step(y, f, torch.tensor([0.3]), torch.tensor([0.3])), y)


def test_hand_number_of_a_step() -> None:
    """Noise that is left taken for noise that is gone. tan 30 / tan 60 = 1/3, so two thirds of the way from 3 to 6."""
    found = ddim_step(torch.tensor([3.0]), torch.tensor([6.0]), torch.tensor([1 / 3]), torch.tensor([2 / 3]))
    assert found.item() == pytest.approx(5.0, abs=1e-6)


def test_constant_teacher_is_returned_exactly() -> None:
    """Rounding, or weights that do not sum to one, that drift a path away from where it has to stay."""
    times = torch.linspace(0.999, 0.001, 201)
    assert follow_path(lambda time: torch.full_like(time, 3.0), times).item() == 3.0


@pytest.mark.parametrize(("steps", "end"), [(50, 1.0498), (200, 1.0223), (1000, 1.0161), (5000, 1.0151)])
def test_path_of_a_rising_teacher_converges_to_the_known_numbers(steps: int, end: float) -> None:
    """An integrator that converges to something else, or not: alpha = cos, sigma = sin of half a turn's half, from .999 to .001."""
    times = torch.linspace(0.999, 0.001, steps + 1, dtype=torch.float64)
    assert follow_path(rising, times).item() == pytest.approx(end, abs=5e-5)


def test_toy_student_learns_what_the_path_integrates_to() -> None:
    """Bootstrapping that runs away from the solution, or stays at the boundary. Within 2 % at every time of the grid."""
    times = torch.linspace(0.9, 0.0, 10)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    later, earlier = times[:-1], times[1:]
    for _ in range(1000):
        said = student(2 * times[:, None] - 1)
        loss = bootstrap(said[1:], said[:-1], rising(later)[:, None], earlier, later).mean()
        loss = loss + boundary(said[:1], rising(times[:1])[:, None], torch.tensor([True])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for place in range(len(times)):
        expected = follow_path(rising, times[: place + 1]).item()
        assert student(2 * times[place][None, None] - 1).item() == pytest.approx(expected, rel=0.02), float(
            times[place]
        )


def test_target_has_no_gradient() -> None:
    """A later self that gives way to the earlier one: both meet anywhere, and nobody learns from the teacher."""
    generator = torch.Generator().manual_seed(1)
    student, later_self, teacher = (torch.randn(4, 3, generator=generator).requires_grad_() for _ in range(3))
    earlier, later = torch.full((4,), 0.2), torch.full((4,), 0.3)
    value = bootstrap(student, later_self, teacher, earlier, later).mean()
    value.backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert later_self.grad is None
    assert teacher.grad is None
    assert not bootstrap_target(later_self, teacher, earlier, later).requires_grad


def test_hand_numbers_of_both_terms() -> None:
    """A mean where the sum is meant, or a boundary that counts texts that are not there."""
    student, theirs = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    # To time 0: the target is the teacher. (1, 0) to (0, 1) is 2 away, (0, 1) to (0, 3) 4.
    found = bootstrap(student, student * 7, theirs, torch.zeros(2), torch.tensor([0.1, 0.2]))
    assert found.values.tolist() == [2.0, 4.0]
    only = boundary(student, theirs, torch.tensor([False, True]))
    assert (only.values.tolist(), only.mean().item()) == ([0.0, 4.0], 4.0)
    assert boundary(student, theirs, torch.tensor([False, False])).mean().item() == 0.0


@pytest.mark.parametrize(("earlier", "later"), [(0.2, 0.1), (-0.1, 0.1), (0.0, 0.0)])
def test_times_that_do_not_go_down_are_refused(earlier: float, later: float) -> None:
    """Noise that grows, or 0 / 0."""
    with pytest.raises(ShapeError, match="0 <= earlier <= later"):
        noise_left(torch.tensor([earlier]), torch.tensor([later]))


def test_shapes_that_would_broadcast_are_refused() -> None:
    """One time for all rows, or a column of them, gives a plausible number."""
    rows, times = torch.ones(4, 3), torch.full((4,), 0.2)
    with pytest.raises(ShapeError, match="later"):
        bootstrap(rows, rows, rows, times[:1], times[:1])
    with pytest.raises(ShapeError, match="earlier"):
        bootstrap(rows, rows, rows, times[:1], times)
    with pytest.raises(NonFiniteLossError, match="teacher"):
        boundary(rows, rows * math.nan, torch.ones(4, dtype=torch.bool))
