"""`raydistill jobs` and `raydistill stop`: what was submitted to a cluster, and ending it."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from raydistill.orchestration.jobs import Job

LOOK_SECONDS = 0.5
STOP_SECONDS = 60.0
"""Twice what a job is given to save and end before it is killed."""


@click.command(short_help="The jobs of a cluster, or one of them.")
@click.argument("job", required=False)
@click.option("--address", metavar="URL", help="The cluster's dashboard; default: RAY_API_SERVER_ADDRESS.")
@click.option("--follow", is_flag=True, help="Show the log of JOB until it is over; end with its exit code.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def jobs(job: str | None, address: str | None, follow: bool, as_json: bool) -> None:
    """List the jobs that were submitted to a cluster, or show the state of JOB."""
    if follow and (job is None or as_json):
        raise click.UsageError("--follow shows the log of one JOB; leave out --json")
    from raydistill.cli.output import echo_json, echo_tables, waiting
    from raydistill.cli.submit import follow_job
    from raydistill.reporting.table import Table

    with waiting("reaching the cluster"):
        from raydistill.orchestration.jobs import Jobs

        cluster = Jobs(address)
        found = cluster.all() if job is None else [cluster.one(job)]
    if follow:
        click.get_current_context().exit(follow_job(cluster, found[0].identity))
    if as_json:
        rows = [job_json(one) for one in found]
        echo_json({"address": cluster.address, "jobs": rows} if job is None else rows[0])
        return
    heads = ("job", "status", "exit code", "started", "took", "run")
    echo_tables([Table(f"jobs on {cluster.address}", heads, tuple(_cells(one) for one in found), left=len(heads))])
    if job is not None and found[0].message:
        click.echo(found[0].message)


@click.command(short_help="Stop a job; what it finished is kept.")
@click.argument("job")
@click.option("--address", metavar="URL", help="The cluster's dashboard; default: RAY_API_SERVER_ADDRESS.")
def stop(job: str, address: str | None) -> None:
    """Stop JOB: its campaign is told to end (SIGTERM), saves, and can be gone on with (submit --resume)."""
    from raydistill.cli.output import waiting
    from raydistill.errors import JobError

    with waiting("stopping the job"):
        from raydistill.orchestration.jobs import Jobs

        cluster = Jobs(address)
        state = cluster.one(job)
        if state.is_over:
            click.echo(f"job {job} was over already: {state.status}")
            return
        cluster.stop(job)
        deadline = time.monotonic() + STOP_SECONDS
        while not (state := cluster.one(job)).is_over and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
    if not state.is_over:
        raise JobError(
            f"job {job} is still {state.status} after {STOP_SECONDS:g} seconds",
            expected="a job that ends when it is told to",
            remedy=f"look at it: raydistill jobs {job} --address {cluster.address}",
        )
    click.echo(f"job {job}: {state.status}")


def job_json(job: Job) -> dict[str, Any]:
    """One job for programs."""
    return {
        "job": job.identity,
        "status": job.status,
        "exit_code": job.exit_code,
        "started": job.started,
        "ended": job.ended,
        "message": job.message,
        "command": job.entrypoint,
        **{name: job.metadata.get(name) for name in ("campaign", "run", "raydistill")},
    }


def _cells(job: Job) -> tuple[str, ...]:
    from raydistill.reporting.table import number

    begun = "–" if job.started is None else datetime.fromtimestamp(job.started).strftime("%Y-%m-%d %H:%M:%S")
    until = (job.ended or time.time()) if job.started is not None else None
    took = "–" if until is None or job.started is None else f"{number(max(0.0, until - job.started), 0)} s"
    code = "–" if job.exit_code is None else str(job.exit_code)
    return job.identity, job.status, code, begun, took, job.metadata.get("run", job.entrypoint)
