"""Where the time of a step goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Clock:
    """Seconds by part. What is inside another part is counted once, for itself.

    Args:
        wait: called at the borders of parts, so that what was only queued on a device is counted where it was asked for; None = the seconds are
            those until it was queued.
    """

    def __init__(self, wait: Callable[[], None] | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._wait = wait
        self._open: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is inside for a part."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def take(self) -> dict[str, float]:
        """The seconds so far, which begin anew."""
        taken, self.seconds = self.seconds, {}
        return taken

    def _turn(self) -> None:
        if self._wait is not None:
            self._wait()
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now
