"""How a trial learns that it is to save and end: from the coordinator, by SIGTERM to its process, or because its machine was told to end.

All of them only set a flag, which training looks at between two steps, beside one that takes long, and before every micro-batch that it encodes besides. A trial that was told saves
inside its epoch, so that whatever takes its place goes on from the very step.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import ray
from ray.exceptions import RayError

from raydistill.orchestration.asking import ask
from raydistill.orchestration.machines import is_leaving
from raydistill.planning.records import TrialKey

HALT_SECONDS = 5.0
"""What is left to a process that was told to end: Slurm and clouds give 30 s and more, `docker stop` 10."""
LOOK_SECONDS = 0.2
"""Between looks at a flag that a signal sets. A handler that woke a thread could be interrupted by the next signal while it holds a lock."""
MACHINE_SECONDS = 2.0
"""Between questions whether the machine is about to go, which Ray gives thirty seconds."""
AGAIN_SECONDS = 1.0
"""Between attempts to reach a coordinator that is just being started again."""


class SigtermNotice:
    """In place of a process's handler of SIGTERM: while a trial is at work the first one is a notice; every other one ends the process as before.

    Args:
        before: the handler that was there.
    """

    def __init__(self, before: Callable[[int, FrameType | None], Any]) -> None:
        self.before = before
        self.at_work = self.received = self.machine_leaves = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        if self.received or not self.at_work:
            self.before(number, frame)
        self.received = True

    @property
    def told(self) -> bool:
        """Whether the process is to end: it was told, or its machine was, which sends it a signal of its own later."""
        return self.received or self.machine_leaves

    def leave(self) -> None:
        """End the process as the signal would have done at first."""
        self.before(signal.SIGTERM, None)


def take_sigterm_as_notice() -> None:
    """Put a `SigtermNotice` in place of this process's handler; only its main thread may."""
    before = signal.getsignal(signal.SIGTERM)
    if not isinstance(before, SigtermNotice):
        signal.signal(signal.SIGTERM, SigtermNotice(before if callable(before) else _exit))


def sigterm_notice() -> SigtermNotice:
    """The one of this process; one that hears nothing where none was put in place."""
    handler = signal.getsignal(signal.SIGTERM)
    return handler if isinstance(handler, SigtermNotice) else SigtermNotice(_exit)


class Notice:
    """Whether a trial is to save and end; answers at once.

    Args:
        sigterm: of this process.
        leave: tells the coordinator that the trial has saved, and its process may die.
    """

    def __init__(self, sigterm: SigtermNotice, leave: Callable[[], object]) -> None:
        self.sigterm, self._leave = sigterm, leave
        self.told = self.over = False

    def __call__(self) -> bool:
        """Whether it is."""
        return self.told or self.sigterm.told

    def has_saved(self) -> None:
        """Hear that all is on disk while the trial cannot end yet. Whoever was told to end may be killed before that, and did not fail."""
        self._leave()


@contextlib.contextmanager
def noticing(coordinator: Any, key: TrialKey, *, first: bool = True, alone: bool = True) -> Iterator[Notice]:
    """Hear of the end that a trial of this process is to make, for as long as it trains.

    Args:
        coordinator: handle of the coordinator.
        key: the trial.
        first: whether this is the worker that saves, for which the end of a campaign waits.
        alone: whether it is the only one; of several each passes on what its own process, or machine, is told.
    """
    # Not waited for, because a step is held up meanwhile: a coordinator that is just being started again will take it for a death.
    notice = Notice(sigterm_notice(), lambda: coordinator.leave.remote(key))
    for hearing in (_listen, _watch_machine) if alone else (_listen, _watch_machine, _pass_on):
        threading.Thread(target=hearing, args=(notice, coordinator, key, first), daemon=True).start()
    notice.sigterm.at_work = True
    try:
        yield notice
    finally:
        notice.sigterm.at_work, notice.over = False, True
        if first:
            coordinator.rest.remote(key)


def _listen(notice: Notice, coordinator: Any, key: TrialKey, first: bool) -> None:
    while not (notice.over or notice.told):
        try:
            notice.told = ask(coordinator.listen.remote(key, first))
        except RayError:
            time.sleep(AGAIN_SECONDS)
    if notice.over and first:
        with contextlib.suppress(RayError):
            # The question above may have come after the word that nobody asks any more.
            ask(coordinator.rest.remote(key))


def _pass_on(notice: Notice, coordinator: Any, key: TrialKey, first: bool) -> None:
    """Have the coordinator tell all workers: they hear of each other between two steps only, the first alone can save, and the others may be in a teacher's pass of hours."""
    while not notice.over:
        if not notice.sigterm.told:
            time.sleep(LOOK_SECONDS)
            continue
        try:
            ask(coordinator.halt.remote(key))
            return
        except RayError:
            time.sleep(AGAIN_SECONDS)


def _watch_machine(notice: Notice, coordinator: Any, key: TrialKey, first: bool) -> None:
    """Take the word to this machine for one to this process. Whoever wants a pod or a spot machine back tells Ray's node, which sends its processes nothing."""
    while not (notice.over or notice.sigterm.told):
        with contextlib.suppress(RayError):
            # Never taken back: the thread of the trial before may still wait for an answer from before the word.
            if is_leaving():
                notice.sigterm.machine_leaves = True
        time.sleep(MACHINE_SECONDS)


def halt_all(coordinator: Any) -> None:
    """Let every trial write a checkpoint where it stands; returns when they have, or after HALT_SECONDS."""
    with contextlib.suppress(RayError):
        ray.get(coordinator.halt_all.remote(HALT_SECONDS), timeout=HALT_SECONDS + AGAIN_SECONDS)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
