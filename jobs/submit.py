"""Run a campaign on a cluster: python jobs/submit.py CONFIG RUN_DIR --address URL [--resume] [--no-wait] [--env NAME] [--set KEY=VALUE ...]."""

from __future__ import annotations

import argparse
import sys

from raydistill.cli.failures import explained
from raydistill.cli.output import configure_logging


def main() -> int:
    """Submit the job, print its name, follow it to its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("run_dir")
    parser.add_argument("--address", help="of the cluster's dashboard; default: RAY_API_SERVER_ADDRESS")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--no-wait", action="store_true")
    parser.add_argument("--env", action="append", default=[], metavar="NAME", dest="environment")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    given = parser.parse_args()
    configure_logging(verbose=True)
    with explained():
        from raydistill.cli.submit import follow_job, send

        place, address = given.run_dir, given.address
        jobs, job = send(given.config, given.overrides, place, address, given.environment, resume=given.resume)
        print(job)
        return 0 if given.no_wait else follow_job(jobs, job)


if __name__ == "__main__":
    sys.exit(main())
