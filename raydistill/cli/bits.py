"""The option that says in how many bits entity vectors are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def entity_bits_option(help: str) -> Callable[[Command], Command]:
    """`--entity-bits`, a number to the command."""
    return click.option(
        "--entity-bits",
        type=click.Choice(["8", "32"]),
        default="32",
        show_default=True,
        callback=lambda _context, _option, value: int(value),
        help=help,
    )
