"""Several things at once, each in a thread of its own, so that whoever started them can be interrupted, and they end together."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

from raydistill.errors import RayDistillError

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
LOOK_SECONDS = 0.2
"""A signal that another thread was given is heard by the main one when it wakes."""
END_SECONDS = 30.0
"""How long those that were told to end are waited for. A campaign saves within five seconds, and then ends its processes."""


class _Ended(NamedTuple, Generic[Result]):
    number: int
    result: Result | None
    problem: BaseException | None


class SideBySide(Generic[Result]):
    """Runs numbered pieces of work. When the `with` block is left, those that still run are told to end, and waited for.

    Args:
        seconds: how long; whoever has not ended by then is left to the end of the process.
        on_left: called where somebody is.
    """

    def __init__(self, seconds: float = END_SECONDS, on_left: Callable[[], None] = lambda: None) -> None:
        self._seconds, self._on_left = seconds, on_left
        self._told = threading.Event()
        self._ended: queue.SimpleQueue[_Ended[Result] | None] = queue.SimpleQueue()
        # A thread itself cannot be asked: one whose `join` was interrupted passes for ended (CPython 3.11).
        self._running: dict[int, threading.Event] = {}

    @property
    def running(self) -> list[int]:
        """The numbers of those that run; after the `with` block, of those that did not end in time."""
        return sorted(self._running)

    def told(self) -> bool:
        """Whether those that run are to end."""
        return self._told.is_set()

    def heed(self) -> None:
        """Called by what runs, where it can save and end.

        Raises:
            SystemExit: it is to.
        """
        if self.told():
            raise SystemExit

    def start(self, number: int, work: Callable[[], Result], title: str = "") -> None:
        """Begin a piece of work beside the others.

        Args:
            number: what it is known by.
            work: what to do.
            title: the name of its thread, which the log tells (`cli/output.py`).
        """
        over, name = threading.Event(), title or f"beside-{number}"
        self._running[number] = over
        threading.Thread(target=self._run, args=(number, work, over), name=name, daemon=True).start()

    def nudge(self) -> None:
        """Have whoever waits for the end of one look up."""
        self._ended.put(None)

    def wait(self, seconds: float = math.inf) -> tuple[int, Result] | None:
        """What ends next, and its result; None after a nudge, or when nothing ends for so long.

        Raises:
            BaseException: what it raised.
        """
        deadline, ended = time.monotonic() + seconds, None
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                ended = self._ended.get(timeout=LOOK_SECONDS)
                break
        if ended is None:
            return None
        del self._running[ended.number]
        if ended.problem is not None:
            raise ended.problem
        return ended.number, ended.result  # type: ignore[return-value]

    def __enter__(self) -> SideBySide[Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._told.set()
        deadline = time.monotonic() + self._seconds
        try:
            for over in self._running.values():
                while time.monotonic() < deadline and not over.wait(LOOK_SECONDS):
                    pass
        finally:
            # A second Ctrl-C does not wait.
            self._running = {number: over for number, over in self._running.items() if not over.is_set()}
            if self._running:
                self._on_left()
        while not self._ended.empty():
            ended = self._ended.get()
            if ended is None or ended.problem is None or isinstance(ended.problem, SystemExit):
                continue
            if isinstance(ended.problem, RayDistillError):
                logger.warning("beside it: %s", ended.problem.received)
            else:
                logger.warning("%d, beside it, failed", ended.number, exc_info=ended.problem)

    def _run(self, number: int, work: Callable[[], Result], over: threading.Event) -> None:
        try:
            ended = _Ended[Result](number, work(), None)
        except BaseException as problem:
            ended = _Ended(number, None, problem)
        self._ended.put(ended)
        over.set()
