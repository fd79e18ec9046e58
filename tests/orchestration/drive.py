"""A driver in a process of its own, so that a test may kill it: drive.py RUN CONFIG.json [--resume]."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fakes

from raydistill.config.load import parse_config
from raydistill.errors import RayDistillError
from raydistill.orchestration.campaign import Campaign
from raydistill.orchestration.ladder_search import LadderSearch


def main() -> int:
    root, config = Path(sys.argv[1]), parse_config(json.loads(Path(sys.argv[2]).read_text()))
    what = Campaign if config.ladders is None else LadderSearch
    try:
        what(config, root, fakes.workshop(), num_cpus=2).run(resume="--resume" in sys.argv)
    except RayDistillError as problem:
        sys.stderr.write(f"{type(problem).__name__}: {problem}\n")
        return problem.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
