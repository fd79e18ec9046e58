"""`raydistill status`: what a run has done so far, read from its ledger, without Ray."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from raydistill.cli.places import Folder

if TYPE_CHECKING:
    from rich.console import RenderableType

    from raydistill.config.schema import CampaignConfig
    from raydistill.orchestration.runstore import RunStore
    from raydistill.planning.state import CampaignState

INTERVAL_SECONDS = 2.0


@click.command(short_help="What a run has done so far.")
@click.argument("run", type=Folder())
@click.option("--watch", is_flag=True, help="Keep showing it until the campaign is complete.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def status(run: str, watch: bool, as_json: bool) -> None:
    """Show grades, trials, promotions and results of the run directory RUN."""
    from raydistill.cli.output import echo_json, result_console
    from raydistill.orchestration.rundir import open_run, read_config
    from raydistill.orchestration.runstore import RunStore
    from raydistill.reporting.report import report_json, state_json

    if as_json and watch:
        raise click.UsageError("--json prints once; leave out --watch")
    store = RunStore.at(run)
    state, config = open_run(store), read_config(store)
    if as_json:
        echo_json({"run": run, **state_json(state), "results": report_json(state, config)["results"]})
    elif watch:
        _watch(store, config)
    else:
        result_console().print(view(state, config))
        _say_if_left(store, state)


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


def _watch(store: RunStore, config: CampaignConfig) -> None:
    from rich.live import Live

    from raydistill.cli.output import result_console
    from raydistill.orchestration.locking import is_held
    from raydistill.orchestration.rundir import open_run

    state = open_run(store)
    with Live(view(state, config), console=result_console(), auto_refresh=False) as live:
        # One more look after the driver has gone: its last events came just before.
        held = True
        while not state.complete and held:
            held = is_held(store)
            time.sleep(INTERVAL_SECONDS)
            state = open_run(store)
            live.update(view(state, config), refresh=True)
    _say_if_left(store, state)


def _say_if_left(store: RunStore, state: CampaignState) -> None:
    from raydistill.orchestration.locking import is_held

    if not state.complete and not is_held(store):
        nobody = (
            "no process is running this campaign"
            if store.remote
            else ("no process on this machine is running this campaign; if none does elsewhere")
        )
        click.echo(
            f"{nobody}, go on with: raydistill run --resume --run-dir {store.place}",
            err=True,
        )
