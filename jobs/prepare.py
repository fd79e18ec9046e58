"""Make a dataset directory: python jobs/prepare.py SOURCE OUT [--layout L] [--hold-out SHARE] [--sample N] [--seed S] [--part K/N] [--quarantine] [--overwrite]."""

from __future__ import annotations

import argparse

from raydistill.cli.failures import explained
from raydistill.cli.output import configure_logging


def main() -> None:
    """Read a public layout, write the dataset, print where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a folder, a file of triples, or pykeen:NAME")
    parser.add_argument("out", help="the dataset directory")
    parser.add_argument("--layout", default="auto")
    parser.add_argument("--hold-out", type=float, help="share of the triples for each split that is not there")
    parser.add_argument("--sample", type=int, help="keep a connected cut of this many entities")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", metavar="K/N", help="keep the triples of part K of N of the relations")
    parser.add_argument("--quarantine", action="store_true", help="set malformed lines aside instead of refusing")
    parser.add_argument("--overwrite", action="store_true")
    given = parser.parse_args()
    configure_logging(verbose=True)
    with explained():
        from raydistill.kg.prepare import prepare

        # Its options are those of the function.
        print(prepare(**vars(given)).path)


if __name__ == "__main__":
    main()
