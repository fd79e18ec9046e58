"""The `raydistill` command: options that all commands share, signals, and what an error becomes."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, NoReturn

import click

from raydistill import __version__
from raydistill.cli.evaluate import evaluate
from raydistill.cli.export import export
from raydistill.cli.failures import TERMINATED, explained
from raydistill.cli.jobs import jobs, stop
from raydistill.cli.output import configure_logging
from raydistill.cli.predict import predict
from raydistill.cli.prepare import prepare
from raydistill.cli.run import may_go_on, run
from raydistill.cli.status import status
from raydistill.cli.submit import submit
from raydistill.cli.verify import verify


class Commands(click.Group):
    """A group whose commands end with an explanation and an exit code instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        # `run` says which run it has to do with, when it may begin it.
        with explained(debug=bool(ctx.params.get("debug")), resumable=lambda: may_go_on(ctx.obj)):
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order of their use rather than of the alphabet."""
        return list(self.commands)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="raydistill")
@click.option("-v", "--verbose", is_flag=True, help="Log what is going on.")
@click.option("--debug", is_flag=True, help="Log everything, and show the traceback of an unexpected error.")
def commands(verbose: bool, debug: bool) -> None:
    """Progressive distillation of text-based knowledge graph completion models on Ray.

    A big text model learns a knowledge graph; a ladder of ever smaller students learns from it, grade by grade.

    Exit codes: 0 done, 2 usage or configuration, 3 data, 4 damaged checkpoint or ledger, 5 training, storage or
    a job failed, 70 unexpected error, 130 interrupted, 143 terminated. `submit` ends with the code of its job.
    """
    configure_logging(verbose=verbose, debug=debug)


for command in (prepare, run, status, submit, jobs, stop, evaluate, predict, export, verify):
    commands.add_command(command)


def main() -> None:
    """Entry point of the `raydistill` script."""
    signal.signal(signal.SIGTERM, _terminate)
    commands(prog_name="raydistill")


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)
