"""Wall times of small ladders, worked out by hand."""

from __future__ import annotations

import pytest

from raydistill.planning.schedule import ScheduleName
from raydistill.planning.simulation import GradeCost, wall_seconds

LADDER = (GradeCost(4, 3.0), GradeCost(4, 2.0), GradeCost(4, 1.0))
"""12, 8 and 4 seconds."""


@pytest.mark.parametrize(
    ("schedule", "devices", "seconds"),
    [
        ("sequential", 1, 24.0),
        ("sequential", 8, 24.0),
        ("independent", 8, 20.0),
        ("independent", 1, 24.0),
        ("pipelined", 1, 24.0),
        # The teacher ends at 12, the first student's last epoch at 14, the second's at 15.
        ("pipelined", 8, 15.0),
        # On two devices the second student finds room when the first one has to wait, at 9: it needs 3 of those 3 seconds.
        ("pipelined", 2, 15.0),
    ],
)
def test_ladder_by_hand(schedule: ScheduleName, devices: int, seconds: float) -> None:
    """A simulation that lets a student start before its teacher, or two trials share a device, promises what no cluster keeps."""
    assert wall_seconds(LADDER, schedule, devices) == seconds


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_no_schedule_is_shorter_than_its_work(devices: int) -> None:
    """Whatever the schedule: all work on all devices, and the longest grade, are lower bounds."""
    work = sum(cost.total for cost in LADDER)
    schedules: list[ScheduleName] = ["sequential", "pipelined", "independent"]
    for schedule in schedules:
        found = wall_seconds(LADDER, schedule, devices)
        assert found >= max(work / devices, max(cost.total for cost in LADDER))
        assert found <= work


def test_whole_trial_under_the_final_teacher_is_sequential() -> None:
    """With as many settling epochs as there are epochs nothing may overlap."""
    assert wall_seconds(LADDER, "pipelined", 8, settle_epochs=4) == wall_seconds(LADDER, "sequential", 8)
