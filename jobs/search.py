"""Search one grade under a trained teacher: python jobs/search.py CONFIG RUN_DIR --teacher CHECKPOINT [--grade 1] [--resume] [--set KEY=VALUE ...]."""

from __future__ import annotations

import argparse

from raydistill.cli.failures import explained
from raydistill.cli.output import configure_logging, echo_tables, error_console
from raydistill.cli.run import may_go_on


def main() -> None:
    """Keep one grade of a campaign, run its trials, print them best first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("run_dir")
    parser.add_argument("--teacher", required=True, help="the checkpoint to learn from")
    parser.add_argument("--grade", type=int, default=1, help="which grade of the configuration, from 1")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    given = parser.parse_args()
    configure_logging(verbose=True)
    with explained(resumable=lambda: may_go_on(given.run_dir)):
        from raydistill.cli.run import check_place
        from raydistill.config.load import load_config, one_grade
        from raydistill.orchestration.campaign import Campaign
        from raydistill.reporting.progress import Progress
        from raydistill.reporting.report import trial_table

        config = one_grade(load_config(given.config, given.overrides), given.grade, given.teacher)
        check_place(given.run_dir, resume=given.resume)
        with Progress(error_console()) as progress:
            state = Campaign(config, given.run_dir).run(resume=given.resume, observe=progress.observe)
        echo_tables([trial_table(state, lineage, 1) for lineage in state.lineages])
        print(given.run_dir)


if __name__ == "__main__":
    main()
