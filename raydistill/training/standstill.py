"""When a step computes without changing anything, so that another thread may save what the trial has learnt.

What a term remembers may change in the middle of a step, into what the same step finds when it is taken again; no copy may be made while it does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Standstill:
    """From the beginning of a step to the moment before its change of weights, a trial is where the step before has left it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: float | None = None

    @contextmanager
    def lasting(self) -> Iterator[None]:
        """Change nothing meanwhile. At its end, whoever saves is waited for."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._since = None

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Change meanwhile what the same step would change again; whoever saves is waited for."""
        with self._lock:
            yield

    def seconds(self) -> float:
        """How long it has lasted by now; 0 where it does not."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Let nothing change meanwhile: whether nothing does."""
        with self._lock:
            yield self._since is not None
