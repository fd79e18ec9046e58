"""Kill processes of a campaign at random: python jobs/chaos.py CONFIG OUT [--campaigns 10] [--kills 10] [--every 45] [--seed 0] [--set KEY=VALUE]."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path


def main() -> None:
    """Print a line per campaign, write OUT/chaos.json; exit code 1 where one ended otherwise than undisturbed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--campaigns", type=int, default=10)
    parser.add_argument("--kills", type=int, default=10, help="in each campaign")
    parser.add_argument("--every", type=float, default=45.0, help="seconds between kills, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    from raydistill.cli.failures import explained
    from raydistill.orchestration.chaos import Plan, chaos, summary

    outcomes = []
    with explained():
        plan = Plan(given.config, tuple(given.set), given.kills, given.every)
        for outcome in chaos(plan, given.out, given.campaigns, given.seed):
            outcomes.append(outcome)
            print(json.dumps(asdict(outcome)), flush=True)
            (given.out / "chaos.json").write_text(json.dumps([asdict(one) for one in outcomes], indent=2) + "\n")
    print(summary(outcomes))
    raise SystemExit(not all(one.sound for one in outcomes))


if __name__ == "__main__":
    main()
