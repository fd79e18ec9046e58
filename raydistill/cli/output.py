"""Where the command line writes: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console

    from raydistill.reporting.table import Table

LADDER = "ladder "
"""What the threads of a search over ladders are called (`orchestration/ladder_search.py`)."""
WIDE = 400
"""Columns of an output that is no terminal: a file wraps no lines."""


class StandardErrorHandler(logging.StreamHandler[TextIO]):
    """Logs to whatever standard error is at that moment, because a live display takes its place while it is drawn."""

    @property
    def stream(self) -> TextIO:
        """Standard error, looked up anew for every line."""
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """Ignore what the base class sets; there is only one answer."""


def _name_ladder(record: logging.LogRecord) -> bool:
    """Say which ladder it is that speaks, where several run in threads of a search."""
    thread, said = record.threadName or "", ""
    # What is wrongly put together is logging's to tell of, later.
    with suppress(TypeError, ValueError):
        said = record.getMessage()
    record.ladder = f"{thread}: " if thread.startswith(LADDER) and not said.startswith(thread) else ""
    return True


def configure_logging(*, verbose: bool = False, debug: bool = False) -> None:
    """Send the package's log to standard error: warnings, with `verbose` also what happens, with `debug` everything."""
    logger = logging.getLogger("raydistill")
    logger.setLevel(logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING)
    if not any(isinstance(handler, StandardErrorHandler) for handler in logger.handlers):
        handler = StandardErrorHandler()
        handler.addFilter(_name_ladder)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(ladder)s%(message)s", "%H:%M:%S"))
        logger.addHandler(handler)


@contextmanager
def errors_only(name: str) -> Iterator[None]:
    """Hold back the warnings of one logger while its findings are printed as results; as log lines they would come twice."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def echo_json(value: Any) -> None:
    """Print a result for programs; NaN and infinity become null."""
    from raydistill.reporting.report import finite

    click.echo(json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def check_file_place(path: str) -> None:
    """Refuse a file that nobody can write, before the work whose result it is to hold.

    Raises:
        ConfigError: its folder is not there.
    """
    from raydistill.errors import ConfigError

    if not Path(path).absolute().parent.is_dir():
        raise ConfigError(
            f"{path}: its folder is not there",
            expected="a file in a folder that exists",
            consequence="the result would be lost after the work was done",
            remedy="make the folder, or name another file",
        )


def echo_tables(tables: Sequence[Table]) -> None:
    """Print tables for people."""
    console = result_console()
    for table in tables:
        console.print(table.as_rich())


def result_console() -> Console:
    """A console on standard output; where that is no terminal, wide enough for every table."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = WIDE
    return console


def error_console() -> Console:
    """A console on standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A spinner on a terminal while something takes its time; nothing elsewhere."""
    console = error_console()
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield
