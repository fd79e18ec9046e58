"""Measure what a campaign costs here: python jobs/benchmark.py CONFIG OUT [--parts replay calls inline train] [--set KEY=VALUE ...]."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from raydistill.cli.failures import explained
from raydistill.cli.output import configure_logging

PARTS = ("replay", "calls", "inline", "train")


def main() -> None:
    """Print a line per part, write OUT/benchmark.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    given = parser.parse_args()
    configure_logging(verbose=False)
    with explained():
        from raydistill.config.load import load_config
        from raydistill.orchestration.overheads import measured

        config, found = load_config(given.config, given.overrides), {}
        for part in given.parts:
            found[part] = measured(part, config, given.out)
            print(part, json.dumps(found[part]), flush=True)
            (given.out / "benchmark.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
