"""Measure what raydistill costs here, beside the naive way and its peers: python jobs/benchmark.py CONFIG OUT [--parts ...] [--set KEY=VALUE ...]."""

from __future__ import annotations

import argparse
from pathlib import Path

from raydistill.benchmarks.parts import PARTS
from raydistill.cli.failures import explained
from raydistill.cli.output import configure_logging, echo_tables


def main() -> None:
    """Print a table per part, write OUT/benchmark.json. All parts take hours: one prepares a graph of 5 million entities, others train trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("out", type=Path, help="a folder; parts that it holds are measured again")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--turns", type=int, default=5, help="of each measurement, whose median is given")
    parser.add_argument("--source", help="a public layout to prepare, for the part `texts`")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    given = parser.parse_args()
    configure_logging(verbose=False)
    with explained():
        from raydistill.benchmarks.tables import keep, measured, table

        for part in given.parts:
            rows = []
            for row in measured(part, given.config, given.overrides, given.out, given.turns, given.source):
                rows.append(row)
                # At once: what comes next may take an hour, or fail.
                keep(part, rows, given.out / "benchmark.json")
            echo_tables([table(part, rows)])


if __name__ == "__main__":
    main()
