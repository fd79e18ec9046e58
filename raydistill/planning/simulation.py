"""How long a ladder takes on so many devices, from the times its epochs were measured to take: which schedule is worth it, before hardware is rented."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raydistill.errors import ConfigError
from raydistill.planning.schedule import ScheduleName, above
from raydistill.planning.state import CampaignState


@dataclass(frozen=True)
class GradeCost:
    """One grade with one trial, on one device.

    Attributes:
        epochs: epochs of the trial.
        seconds: seconds of an epoch, validation and checkpoint included.
    """

    epochs: int
    seconds: float

    @property
    def total(self) -> float:
        """Seconds of the whole trial."""
        return self.epochs * self.seconds


def measured_costs(state: CampaignState, lineage: str) -> tuple[GradeCost, ...]:
    """What each grade of a finished lineage took: the median time between the reports of its trials.

    Raises:
        ConfigError: a grade has no trial with two reports, so nothing is known of its epochs.
    """
    costs = []
    for grade, folder in enumerate(state.grades):
        records = [record for record in state.of(lineage, grade) if len(record.reports) > 1]
        gaps = sorted(
            (later["time"] - earlier["time"]) / (later["epoch"] - earlier["epoch"])
            for record in records
            for earlier, later in zip(record.reports, record.reports[1:], strict=False)
        )
        if not gaps:
            raise ConfigError(
                f"grade {folder} of {lineage} has no trial with two reports",
                expected="a run in which every grade has trained two epochs",
                remedy="let it go on, or take another run",
            )
        costs.append(GradeCost(max(record.epochs for record in records), gaps[len(gaps) // 2]))
    return tuple(costs)


def wall_seconds(costs: Sequence[GradeCost], schedule: ScheduleName, devices: int, settle_epochs: int = 1) -> float:
    """Seconds from the first epoch of the teacher to the last epoch of the smallest student.

    A device does one epoch at a time; where several trials could use it, the highest grade goes first, because the others wait for it in the end. A
    trial that waits for its final teacher holds no device.

    Args:
        costs: the grades, teacher first.
        schedule: who may run when.
        devices: trials at once, at least 1.
        settle_epochs: pipelined: the last epochs of a trial, under the final teacher.
    """
    ends: list[list[float]] = [[] for _ in costs]
    free = [0.0] * devices
    while any(len(done) < cost.epochs for done, cost in zip(ends, costs, strict=True)):
        begin, grade = min(
            (max(_possible(grade, ends, costs, schedule, settle_epochs), min(free)), grade)
            for grade, cost in enumerate(costs)
            if len(ends[grade]) < cost.epochs
        )
        device = free.index(min(free))
        free[device] = begin + costs[grade].seconds
        ends[grade].append(free[device])
    return max(done[-1] for done in ends)


def _possible(
    grade: int, ends: Sequence[Sequence[float]], costs: Sequence[GradeCost], schedule: ScheduleName, settle_epochs: int
) -> float:
    """When the next epoch of a grade may begin, as far as its own epochs and its teacher are concerned; infinity = not known yet."""
    own = ends[grade][-1] if ends[grade] else 0.0
    if grade == 0:
        return own
    teacher, needed = above(grade, schedule), costs[above(grade, schedule)].epochs
    if schedule == "pipelined" and len(ends[grade]) < costs[grade].epochs - settle_epochs:
        needed = 1
    return max(own, ends[teacher][needed - 1]) if len(ends[teacher]) >= needed else math.inf
