"""Run a campaign, or a search over ladders: python jobs/distill.py CONFIG RUN_DIR [--resume] [--set KEY=VALUE ...]. The entry point of a Ray job."""

from __future__ import annotations

import argparse

from raydistill.cli.failures import explained
from raydistill.cli.output import configure_logging, error_console
from raydistill.cli.run import may_go_on


def main() -> None:
    """Run every grade, or every ladder; write the result, print where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("run_dir")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    given = parser.parse_args()
    configure_logging(verbose=True)
    with explained(resumable=lambda: may_go_on(given.run_dir)):
        from raydistill.cli.run import check_place, run_to_the_end, save_result
        from raydistill.config.load import load_config
        from raydistill.reporting.progress import Progress

        config = load_config(given.config, given.overrides)
        check_place(given.run_dir, resume=given.resume)
        with Progress(error_console()) as progress:
            state = run_to_the_end(config, given.run_dir, resume=given.resume, observe=progress.observe)
        print(save_result(state, config, given.run_dir))


if __name__ == "__main__":
    main()
