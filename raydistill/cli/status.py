"""`raydistill status`: what a run has done so far, read from its ledger, without Ray."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Any

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
    """Show grades, trials, promotions and results of the run directory RUN; of a search over ladders, its ladders so far."""
    from raydistill.cli.output import echo_json, result_console
    from raydistill.orchestration.patience import hurried
    from raydistill.orchestration.rundir import read_config, require_run
    from raydistill.orchestration.runstore import RunStore

    if as_json and watch:
        raise click.UsageError("--json prints once; leave out --watch")
    store = RunStore.at(run)
    # A campaign waits for minutes for its storage; whoever has mistyped a place is told at once.
    with hurried(lambda: True):
        require_run(store)
        config = read_config(store)
    if as_json:
        echo_json({"run": run, **content(store, config)})
    elif watch:
        _watch(store, config)
    else:
        shown, complete, promoted = look(store, config)
        result_console().print(shown)
        _say_the_end(store, config, promoted, complete=complete)


def content(store: RunStore, config: CampaignConfig) -> dict[str, Any]:
    """What is known of a run at this moment, for programs."""
    if config.ladders is not None:
        from raydistill.orchestration.searchdir import open_search

        search = open_search(store, config)
        return {"complete": search.complete, "wanted": search.wanted, "ladders": search.ladders}
    from raydistill.orchestration.rundir import read_state
    from raydistill.reporting.report import report_json, state_json

    state = read_state(store)
    report = report_json(state, config)
    return {**state_json(state), "results": report["results"], "assistants": report["assistants"]}


def look(store: RunStore, config: CampaignConfig) -> tuple[RenderableType, bool, list[str]]:
    """What is known of a run at this moment, for people; whether it is complete; and lines that say where its promoted checkpoints are."""
    if config.ladders is not None:
        from raydistill.orchestration.searchdir import open_search
        from raydistill.reporting.ladders import search_view

        search = open_search(store, config)
        return search_view(search.ladders, search.wanted, search.running), search.complete, []
    from raydistill.orchestration.rundir import read_state
    from raydistill.reporting.promoted import promoted_lines

    state = read_state(store)
    return view(state, config), state.complete, promoted_lines(state)


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

    shown, complete, promoted = look(store, config)
    with Live(shown, console=result_console(), auto_refresh=False) as live:
        # One more look after the driver has gone: its last events came just before.
        held = True
        while not complete and held:
            held = is_held(store)
            time.sleep(INTERVAL_SECONDS)
            shown, complete, promoted = look(store, config)
            live.update(shown, refresh=True)
    _say_the_end(store, config, promoted, complete=complete)


def _say_the_end(store: RunStore, config: CampaignConfig, promoted: list[str], *, complete: bool) -> None:
    # Not in the tables, whose cells would break a path that is to be copied.
    for line in promoted:
        click.echo(line)
    _say_if_left(store, config, complete=complete)


def _say_if_left(store: RunStore, config: CampaignConfig, *, complete: bool) -> None:
    from raydistill.orchestration.locking import is_held
    from raydistill.orchestration.rundir import CONFIG

    if not complete and not is_held(store):
        what = "campaign" if config.ladders is None else "search"
        nobody = (
            f"no process is running this {what}"
            if store.remote
            else (f"no process on this machine is running this {what}; if none does elsewhere")
        )
        click.echo(f"{nobody}, go on in the directory it was begun in with: {resume_command(store)}", err=True)
        if store.remote:
            click.echo(f"  CONFIG is the file it was begun with, or a copy of {store.located(CONFIG)}", err=True)


def resume_command(store: RunStore) -> str:
    """What goes on with a run, for a shell. A configuration is read from this machine alone, so that of a run elsewhere is left to be named."""
    from raydistill.orchestration.rundir import CONFIG

    config = "CONFIG" if store.remote else store.located(CONFIG)
    return shlex.join(["raydistill", "run", config, "--run-dir", store.place, "--resume"])
