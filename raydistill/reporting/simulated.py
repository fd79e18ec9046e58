"""What a measured ladder would take under each schedule, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from raydistill.errors import ConfigError
from raydistill.planning.schedule import ScheduleName
from raydistill.planning.simulation import measured_costs, wall_seconds
from raydistill.planning.state import CampaignState


def simulated_lines(state: CampaignState, lineage: str | None, devices: Sequence[int], settle_epochs: int) -> list[str]:
    """One line per grade, then one per schedule.

    Args:
        state: of a campaign whose grades have trained.
        lineage: which of its ladders; None = the first.
        devices: how many there would be, each at least 1.
        settle_epochs: as for `wall_seconds`.

    Raises:
        ConfigError: there is no such lineage, or a grade has not trained two epochs yet.
    """
    lineage = lineage or next(iter(state.lineages), "main")
    if lineage not in state.lineages:
        raise ConfigError(
            f"lineage {lineage} of a run that has {', '.join(state.lineages) or 'none yet'}",
            expected="a ladder of a campaign that has trained (of a search over ladders, RUN/ladders/NNNN is one)",
            remedy="name one of them with --lineage, or another run",
        )
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
