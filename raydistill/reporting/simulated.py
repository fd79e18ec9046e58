"""What a measured ladder would take under each schedule, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from raydistill.planning.schedule import ScheduleName
from raydistill.planning.simulation import measured_costs, wall_seconds
from raydistill.planning.state import CampaignState


def simulated_lines(state: CampaignState, lineage: str, devices: Sequence[int], settle_epochs: int) -> list[str]:
    """One line per grade, then one per schedule.

    Raises:
        ConfigError: a grade has not trained two epochs yet.
    """
    costs = measured_costs(state, lineage)
    lines = [
        f"{folder}: {cost.epochs} epochs of {cost.seconds:.1f} s = {cost.total:.0f} s"
        for folder, cost in zip(state.grades, costs, strict=True)
    ]
    totals = [cost.total for cost in costs]
    lines.append(f"longest grade: {max(totals):.0f} s, all grades: {sum(totals):.0f} s")
    for schedule in get_args(ScheduleName):
        walls = (f"{wall_seconds(costs, schedule, count, settle_epochs):.0f} s on {count}" for count in devices)
        lines.append(f"{schedule}: {', '.join(walls)}")
    return lines
