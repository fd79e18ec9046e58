"""Where the log of a process of Ray's goes: nobody sees its standard error, so a trial's log lies beside its checkpoints."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raydistill.orchestration.asking import ask
from raydistill.planning.records import TrialKey

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
TRIAL_LOG = "trial.log"
SEARCH_LOG = "search.log"


class Notes(logging.Handler):
    """Hands the warnings of a trial to the coordinator, so that they stand in the ledger and whoever watches sees them.

    Args:
        coordinator: handle of the coordinator.
        key: the trial.
    """

    def __init__(self, coordinator: Any, key: TrialKey) -> None:
        super().__init__(logging.WARNING)
        self.coordinator, self.key = coordinator, key

    def emit(self, record: logging.LogRecord) -> None:
        """Send one warning. That it cannot be sent must not end the training it warns of."""
        try:
            ask(self.coordinator.note.remote(self.key, record.getMessage()))
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def logged(path: Path, *more: logging.Handler) -> Iterator[None]:
    """Append what this process logs, from INFO on, to a file and to whatever else is given.

    Args:
        path: the log; its folder is made.
        more: further handlers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter(FORMAT))
    logger = logging.getLogger("raydistill")
    before = logger.level
    logger.setLevel(logging.INFO)
    handlers = [file, *more]
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(before)
