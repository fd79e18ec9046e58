"""How long a measured ladder would take under each schedule: python jobs/simulate.py RUN [--lineage main] [--devices 1 2 4 8]."""

from __future__ import annotations

import argparse
from typing import get_args

from raydistill.cli.failures import explained


def main() -> None:
    """Read what the epochs of a run took from its ledger, and print the wall time by schedule and number of devices."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--lineage", help="which ladder of a comparison; the first one unless named")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--settle-epochs", type=int, default=1)
    given = parser.parse_args()
    with explained():
        from raydistill.errors import ConfigError
        from raydistill.orchestration.rundir import open_run
        from raydistill.planning.schedule import ScheduleName
        from raydistill.planning.simulation import measured_costs, wall_seconds

        state = open_run(given.run)
        lineage = given.lineage or state.lineages[0]
        try:
            costs = measured_costs(state, lineage)
        except ValueError as problem:
            raise ConfigError(
                f"{given.run}: {problem}",
                expected="a run in which every grade has trained two epochs",
                remedy="let it go on",
            ) from None
        for folder, cost in zip(state.grades, costs, strict=True):
            print(f"{folder}: {cost.epochs} epochs of {cost.seconds:.1f} s = {cost.total:.0f} s")
        print(
            f"longest grade: {max(cost.total for cost in costs):.0f} s, all grades: {sum(cost.total for cost in costs):.0f} s"
        )
        for schedule in get_args(ScheduleName):
            walls = (
                f"{wall_seconds(costs, schedule, devices, given.settle_epochs):.0f} s on {devices}"
                for devices in given.devices
            )
            print(f"{schedule}: {', '.join(walls)}")


if __name__ == "__main__":
    main()
