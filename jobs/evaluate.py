"""Score a checkpoint: python jobs/evaluate.py CHECKPOINT DATA OUT.json [--split test] [--rerank-hops N] [--entity-bits 8] [--workers N] [--env NAME]."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from raydistill.cli.failures import explained
from raydistill.cli.numbers import at_least_one
from raydistill.cli.output import check_file_place, configure_logging


def main() -> None:
    """Run the filtered protocol, write all its numbers, print where they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    for place in ("checkpoint", "data", "out"):
        parser.add_argument(place)
    parser.add_argument("--split", default="test")
    parser.add_argument("--rerank-hops", type=at_least_one, help="re-rank with neighbours this far from the head")
    parser.add_argument("--entity-bits", type=int, default=32, help="8: rank against entity vectors rounded to 8 bits")
    parser.add_argument("--workers", type=at_least_one, default=1, help="processes that rank together")
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="give all of them this variable")
    given = parser.parse_args()
    configure_logging(verbose=True)
    with explained():
        from raydistill.cli.environment import given_variables
        from raydistill.cli.evaluate import report_json, scored
        from raydistill.cli.places import dataset_here

        check_file_place(given.out)
        options = given.split, given.rerank_hops, given.entity_bits, given.workers, given_variables(given.env)
        found = report_json(scored(given.checkpoint, given.data, *options), dataset_here(given.data))
        Path(given.out).write_text(json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False), encoding="utf-8")
        print(given.out)


if __name__ == "__main__":
    main()
