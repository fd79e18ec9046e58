"""The option that gives variables to all processes that a command starts on a cluster, which do not have this shell's."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def env_option(help: str) -> Callable[[Command], Command]:
    """`--env`, as often as wanted: a tuple of `NAME` and `NAME=VALUE` to the command."""
    return click.option("--env", "environment", multiple=True, metavar="NAME", help=help)


def given_variables(given: Sequence[str]) -> dict[str, str]:
    """Variables from `NAME` and `NAME=VALUE`, set in this process, too: it reads and writes where the others do.

    Raises:
        ConfigError: one is not set here, or is no name of a variable.
    """
    if not given:
        return {}
    from raydistill.orchestration.variables import variables

    chosen = variables(given)
    os.environ.update(chosen)
    return chosen
