"""A way to call commands, and fakes for what they call."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from raydistill.cli.main import commands

SMALLEST = "data: {path: somewhere}\nencoder: {name: an-encoder}\ngrades: [{layers: 3}]\n"


@pytest.fixture
def call() -> Callable[..., Result]:
    """Run a command line in this process."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(commands, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def fake_module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a module of given names where an import of it would look, so that a command meets a fake."""

    def replace(name: str, **names: object) -> None:
        module = ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)

    return replace


@pytest.fixture
def smallest() -> str:
    """The smallest campaign file."""
    return SMALLEST
