"""`raydistill run`: a whole campaign."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raydistill.cli.environment import env_option, given_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from raydistill.config.schema import CampaignConfig
    from raydistill.planning.state import CampaignState

logger = logging.getLogger(__name__)


@click.command(short_help="Run a whole campaign.")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value, as training.epochs=5.")
@click.option("--run-dir", type=click.Path(file_okay=False), help="Default: storage.path/<name of CONFIG>.")
@click.option("--resume", is_flag=True, help="Go on with the campaign in the run directory.")
@env_option("Give all its processes this variable, or NAME=VALUE.")
@click.option("--dry-run", is_flag=True, help="Show what would be trained, and begin nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def run(
    config: str,
    overrides: tuple[str, ...],
    run_dir: str | None,
    resume: bool,
    environment: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run the campaign that CONFIG describes, here or on the cluster at RAY_ADDRESS.

    With a `ladders` section a whole search over ladders is run, and the ladders that none beats are shown.

    Trains the teacher and every grade of the ladder, searches within each grade, promotes the best student of each,
    scores the promoted ones on the test split, and writes report.html into the run directory.

    The processes of a cluster at RAY_ADDRESS have its variables and not this shell's: what they need to reach a bucket,
    --env AWS_ACCESS_KEY_ID --env AWS_SECRET_ACCESS_KEY gives them. It is written into no log and no file.
    """
    from raydistill.cli.output import error_console
    from raydistill.config.load import load_config
    from raydistill.reporting.progress import watching

    campaign_config = load_config(config, overrides)
    place = run_directory(campaign_config, Path(config).stem, run_dir)
    chosen = given_variables(environment)
    check_place(place, resume=resume)
    if dry_run:
        from raydistill.cli.outlook import show_outlook

        show_outlook(campaign_config, place, resume=resume, as_json=as_json)
        return
    click.get_current_context().find_root().obj = place
    with watching(error_console()) as progress:
        observe = None if progress is None else progress.observe
        state = run_to_the_end(campaign_config, place, resume=resume, observe=observe, variables=chosen)
    if state is None:
        show_ladders(place, as_json=as_json)
    else:
        show_result(state, campaign_config, place, as_json=as_json)


def run_to_the_end(
    config: CampaignConfig,
    place: str,
    *,
    resume: bool,
    observe: Callable[[CampaignState, str], None] | None,
    variables: Mapping[str, str] | None = None,
) -> CampaignState | None:
    """Run what a configuration asks for: a campaign, or a search over ladders where it has that section.

    Args:
        config: which.
        place: the run directory.
        resume: go on with what it holds.
        observe: told of the state after every change, and of which ladder; "" where there is no search.
        variables: what all its processes get in their environment.

    Returns:
        How the campaign ended; None for a search, whose result is in its run directory.

    Raises:
        RayDistillError: what ends a campaign or a search.
    """
    if config.ladders is not None:
        from raydistill.orchestration.ladder_search import LadderSearch

        LadderSearch(config, place, variables=variables).run(resume=resume, observe=observe)
        return None
    from raydistill.errors import PromotionError, RayDistillError, ScoringError
    from raydistill.orchestration.campaign import Campaign
    from raydistill.orchestration.rundir import read_state
    from raydistill.orchestration.runstore import RunStore

    told = None if observe is None else lambda state: observe(state, "")
    try:
        return Campaign(config, place, variables=variables).run(resume=resume, observe=told)
    except (PromotionError, ScoringError):
        # Everything else has been run to its end, and its results would be seen nowhere.
        with contextlib.suppress(RayDistillError, OSError):
            page = save_report(read_state(RunStore.at(place)), config, place)
            logger.warning("%s shows what has come to its end", page)
        raise


def run_directory(config: CampaignConfig, name: str, given: str | None) -> str:
    """The run directory asked for, or the one named after the configuration file; a path or a URI."""
    from raydistill.orchestration.remote import joined

    return given or joined(config.storage.path, name)


def check_place(place: str, *, resume: bool) -> None:
    """Refuse a run directory that cannot be meant, before anything is made in it and before data and encoder are read.

    Raises:
        RunDirectoryError: there is nothing to resume, or it cannot be written.
        ConfigError: nobody knows the URI.
        StorageError: it cannot be looked at.
    """
    from raydistill.errors import RunDirectoryError
    from raydistill.orchestration.rundir import CONFIG
    from raydistill.orchestration.runstore import RunStore

    store = RunStore.at(place)
    if resume and store.read(CONFIG) is None:
        raise RunDirectoryError(
            f"{place} holds no run to resume",
            expected="a directory in which a campaign was begun",
            consequence="the campaign would silently start afresh",
            remedy="check --run-dir, or leave out --resume",
        )
    if store.remote is not None:
        return
    above = next(path for path in (store.root, *store.root.parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise RunDirectoryError(
            f"run directory {place}: {above} {'cannot be written' if above.is_dir() else 'is a file'}",
            expected="a place where this user may make a directory",
            consequence="nothing could be saved",
            remedy="choose another --run-dir, or change the permissions",
        )


def may_go_on(place: str | None) -> bool:
    """Whether there is something for `--resume` to go on with; of a place elsewhere it is taken for granted: who interrupts waits for no bucket."""
    if place is None:
        return False
    from raydistill.orchestration.depot import local_path
    from raydistill.orchestration.rundir import CONFIG

    return ("://" in place and not place.startswith("file:")) or (local_path(place) / CONFIG).exists()


def show_ladders(place: str, *, as_json: bool) -> None:
    """Print every ladder of a search, the ones that none beats first."""
    import json

    from raydistill.cli.output import echo_json, echo_tables
    from raydistill.orchestration.runstore import RunStore
    from raydistill.orchestration.searchdir import PARETO
    from raydistill.reporting.ladders import ladder_table

    store = RunStore.at(place)
    content = json.loads(store.read(PARETO) or b"[]")
    if as_json:
        echo_json({"run": store.place, "ladders": content})
        return
    echo_tables([ladder_table(content)])
    click.echo(f"pareto set {store.located(PARETO)}")
    click.echo(f"run {store.place}")


def save_result(state: CampaignState | None, config: CampaignConfig, place: str) -> str:
    """Where the result of `run_to_the_end` lies: the report's page, which this writes; of a search, the Pareto set."""
    from raydistill.orchestration.runstore import RunStore
    from raydistill.orchestration.searchdir import PARETO

    return RunStore.at(place).located(PARETO) if state is None else save_report(state, config, place)


def save_report(state: CampaignState, config: CampaignConfig, place: str) -> str:
    """Write the report into the run directory; returns where the page is."""
    from raydistill.orchestration.runstore import RunStore
    from raydistill.reporting.report import report_files, write_report

    store = RunStore.at(place)
    if store.remote is None:
        return str(write_report(state, config, store.root if "://" in place else place))
    name = place.partition("?")[0].rstrip("/").rpartition("/")[2]
    for file, text in report_files(name, state, config).items():
        store.write(file, text.encode())
    return store.located("report.html")


def show_result(state: CampaignState, config: CampaignConfig, place: str, *, as_json: bool) -> None:
    """Write the report; print the final tables, where everything lies, and the promoted checkpoints."""
    from raydistill.cli.output import echo_json, echo_tables
    from raydistill.reporting.promoted import promoted_lines
    from raydistill.reporting.report import report_json, report_tables

    page = save_report(state, config, place)
    if as_json:
        echo_json({"run": place, "report": page, **report_json(state, config)})
        return
    echo_tables(report_tables(state, config))
    for line in promoted_lines(state):
        click.echo(line)
    click.echo(f"report {page}")
    click.echo(f"run {place}")
