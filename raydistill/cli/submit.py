"""`raydistill submit`: a campaign, or a script, as a job on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from raydistill.cli.environment import env_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raydistill.orchestration.jobs import Jobs


SCRIPT = ".py"


@click.command(short_help="Run a campaign, or a script, as a job on a cluster.")
@click.argument("config", metavar="CONFIG|SCRIPT", type=click.Path(dir_okay=False))
@click.argument("arguments", nargs=-1, metavar="[-- ARGUMENTS...]")
@click.option("--address", metavar="URL", help="The cluster's dashboard; default: RAY_API_SERVER_ADDRESS.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value, as training.epochs=5.")
@click.option("--run-dir", type=click.Path(file_okay=False), help="Default: storage.path/<name of CONFIG>.")
@click.option("--resume", is_flag=True, help="Go on with the campaign in the run directory.")
@env_option("Give the job this variable, or NAME=VALUE.")
@click.option("--no-wait", is_flag=True, help="Print the name of the job and leave it to itself.")
def submit(
    config: str,
    arguments: tuple[str, ...],
    address: str | None,
    overrides: tuple[str, ...],
    run_dir: str | None,
    resume: bool,
    environment: tuple[str, ...],
    no_wait: bool,
) -> None:
    """Run the campaign that CONFIG describes on a cluster, follow its log, and end with its exit code.

    The package and the resolved configuration are sent; data, encoder and runs have to lie where all machines of the
    cluster see them. Relative paths are taken from here. Ctrl-C leaves the job running and says how to reach it.

    A Python script (jobs/evaluate.py, or one of your own that uses raydistill) is sent and run instead, with what follows `--`.
    """
    if config.endswith(SCRIPT):
        _refuse_beside_a_script(overrides, run_dir, resume)
        jobs, job = send_script(config, arguments, address, environment)
    elif arguments:
        raise click.UsageError(f"{' '.join(arguments)}: a campaign takes no arguments, only a script ({SCRIPT}) does")
    else:
        jobs, job = send(config, overrides, run_dir, address, environment, resume=resume)
    if no_wait:
        click.echo(job)
        return
    click.get_current_context().exit(follow_job(jobs, job))


def send(
    config: str,
    overrides: Sequence[str],
    run_dir: str | None,
    address: str | None,
    environment: Sequence[str],
    *,
    resume: bool,
) -> tuple[Jobs, str]:
    """Submit a campaign; returns the cluster's jobs and the name of the new one.

    Raises:
        ConfigError: the configuration, a variable, the address or the token is wrong; nothing was submitted.
        JobError: the cluster did not take it.
    """
    from raydistill.cli.output import waiting
    from raydistill.cli.run import run_directory
    from raydistill.config.load import load_config

    campaign = load_config(config, overrides)
    name = Path(config).stem
    place = run_directory(campaign, name, run_dir)
    with waiting("reaching the cluster"):
        from raydistill.orchestration.jobs import Jobs
        from raydistill.orchestration.submission import absolute
        from raydistill.orchestration.submission import submit as submit_campaign
        from raydistill.orchestration.variables import variables

        chosen = variables(environment)
        jobs = Jobs(address)
        folder = absolute(place)
        job = submit_campaign(jobs, campaign, name, folder, resume=resume, environment=chosen)
    click.echo(f"job {job} on {jobs.address}, run {folder}", err=True)
    return jobs, job


def send_script(
    script: str, arguments: Sequence[str], address: str | None, environment: Sequence[str]
) -> tuple[Jobs, str]:
    """Submit a script; returns the cluster's jobs and the name of the new one.

    Raises:
        ConfigError: the script, a variable, the address or the token is wrong; nothing was submitted.
        JobError: the cluster did not take it.
    """
    from raydistill.cli.output import waiting

    with waiting("reaching the cluster"):
        from raydistill.orchestration.jobs import Jobs
        from raydistill.orchestration.submission import submit_script
        from raydistill.orchestration.variables import variables

        chosen = variables(environment)
        jobs = Jobs(address)
        job = submit_script(jobs, Path(script), arguments, environment=chosen)
    click.echo(f"job {job} on {jobs.address}", err=True)
    return jobs, job


def _refuse_beside_a_script(overrides: Sequence[str], run_dir: str | None, resume: bool) -> None:
    given = [name for name, value in (("--set", overrides), ("--run-dir", run_dir), ("--resume", resume)) if value]
    if given:
        raise click.UsageError(f"{', '.join(given)}: options of a campaign; what a script is to get follows --")


def follow_job(jobs: Jobs, job: str) -> int:
    """Pass on the log of a job until it is over; returns its exit code. Being interrupted leaves the job as it is.

    Raises:
        JobError: it ended without an exit code, or the cluster was lost.
    """
    from raydistill.orchestration.following import follow

    try:
        ended = follow(jobs, job, lambda text: click.echo(text, nl=False))
    except (KeyboardInterrupt, SystemExit, BrokenPipeError):
        click.echo(f"job {job} goes on without this client", err=True)
        click.echo(f"  its log: raydistill jobs {job} --follow --address {jobs.address}", err=True)
        click.echo(f"  stop it: raydistill stop {job} --address {jobs.address}", err=True)
        raise
    code = ended.code()
    click.echo(f"job {job}: {ended.status}, exit code {code}", err=True)
    return code
