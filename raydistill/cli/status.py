"""`raydistill status`: what a run has done so far, read from its ledger, without Ray."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

    from raydistill.config.schema import CampaignConfig
    from raydistill.planning.state import CampaignState

INTERVAL_SECONDS = 2.0


@click.command(short_help="What a run has done so far.")
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@click.option("--watch", is_flag=True, help="Keep showing it until the campaign is complete.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def status(run: str, watch: bool, as_json: bool) -> None:
    """Show grades, trials, promotions and results of the run directory RUN."""
    from raydistill.cli.output import echo_json, result_console
    from raydistill.config.load import load_config
    from raydistill.orchestration.rundir import open_run
    from raydistill.reporting.report import report_json, state_json

    if as_json and watch:
        raise click.UsageError("--json prints once; leave out --watch")
    state = open_run(run)
    config = load_config(Path(run) / "config.yaml")
    if as_json:
        echo_json({"run": run, **state_json(state), "results": report_json(state, config)["results"]})
    elif watch:
        _watch(run, config)
    else:
        result_console().print(view(state, config))
        _say_if_left(run, state)


def view(state: CampaignState, config: CampaignConfig) -> RenderableType:
    """Headline, running trials, the trials of every grade, and the final tables as far as there are results."""
    from rich.console import Group

    from raydistill.reporting.progress import running_view
    from raydistill.reporting.report import report_tables, trial_table

    begun = [
        (lineage, grade) for lineage in state.lineages for grade in range(len(state.grades)) if state.of(lineage, grade)
    ]
    parts: list[RenderableType] = [running_view(state)]
    parts += [trial_table(state, *key).as_rich() for key in begun]
    if state.promotions:
        parts += [table.as_rich() for table in report_tables(state, config)]
    return Group(*parts)


def _watch(run: str, config: CampaignConfig) -> None:
    from rich.live import Live

    from raydistill.cli.output import result_console
    from raydistill.orchestration.locking import is_held
    from raydistill.orchestration.rundir import open_run

    state = open_run(run)
    with Live(view(state, config), console=result_console(), auto_refresh=False) as live:
        # One more look after the driver has gone: its last events came just before.
        held = True
        while not state.complete and held:
            held = is_held(Path(run))
            time.sleep(INTERVAL_SECONDS)
            state = open_run(run)
            live.update(view(state, config), refresh=True)
    _say_if_left(run, state)


def _say_if_left(run: str, state: CampaignState) -> None:
    from raydistill.orchestration.locking import is_held

    if not state.complete and not is_held(Path(run)):
        click.echo(
            f"no process on this machine is running this campaign; if none does elsewhere, go on with: raydistill run --resume --run-dir {run}",
            err=True,
        )
