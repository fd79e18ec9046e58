"""What the log says, and of whom."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from raydistill.cli.output import StandardErrorHandler, configure_logging

PACKAGE = "raydistill"


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger below the package's, which writes as the command line has it."""
    package = logging.getLogger(PACKAGE)
    before, level = list(package.handlers), package.level
    configure_logging()
    yield logging.getLogger(f"{PACKAGE}.somewhere")
    package.handlers, _ = before, package.setLevel(level)


def said_in(title: str, speak: Callable[[], None]) -> None:
    thread = threading.Thread(target=speak, name=title)
    thread.start()
    thread.join()


def test_log_tells_which_ladder_of_several_speaks(log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """Four campaigns beside each other, and a warning that the disk of one of them is full: nobody would know whose."""
    log.warning("first")
    said_in("ladder 0003", lambda: log.warning("the disk is %s", "full"))
    said_in("ladder 0003", lambda: log.warning("ladder 0003: %s", "no trial to promote"))
    said_in("head-watch", lambda: log.warning("last"))
    lines = [line.split(" ", 2)[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        f"{log.name}: first",
        f"{log.name}: ladder 0003: the disk is full",
        f"{log.name}: ladder 0003: no trial to promote",
        f"{log.name}: last",
    ]


def test_log_is_set_up_once(log: logging.Logger) -> None:
    """A second command in one process would say everything twice."""
    configure_logging(verbose=True)
    handlers = logging.getLogger(PACKAGE).handlers
    assert sum(isinstance(one, StandardErrorHandler) for one in handlers) == 1
