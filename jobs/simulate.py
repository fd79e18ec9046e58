"""How long a measured ladder would take under each schedule: python jobs/simulate.py RUN [--lineage main] [--devices 1 2 4 8]."""

from __future__ import annotations

import argparse

from raydistill.cli.failures import explained
from raydistill.cli.numbers import at_least_one


def main() -> None:
    """Read what the epochs of a run took from its ledger, and print the wall time by schedule and number of devices."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--lineage", help="which ladder of a comparison; the first one unless named")
    parser.add_argument("--devices", type=at_least_one, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--settle-epochs", type=int, default=1)
    given = parser.parse_args()
    with explained():
        from raydistill.orchestration.rundir import open_run
        from raydistill.reporting.simulated import simulated_lines

        for line in simulated_lines(open_run(given.run), given.lineage, given.devices, given.settle_epochs):
            print(line)


if __name__ == "__main__":
    main()
