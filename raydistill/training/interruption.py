"""Ending a trial before its end, between two steps, beside a long one or while it encodes, without losing a step."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from raydistill.errors import RayDistillError, TrialInterruptedError
from raydistill.training.keeping import CheckpointKeeper
from raydistill.training.parts import TrialParts

logger = logging.getLogger(__name__)
Asked = Callable[[], bool]
LONG_SECONDS = 1.0
"""Of a step: the end of a shorter one is waited for."""
LOOK_SECONDS = 0.2


class Interruption:
    """Writes the checkpoint from which an interrupted trial goes on, and ends it.

    Args:
        asked: whether this worker was told to end; asked often, and by two threads, so it must answer at once.
        keeper: writes the checkpoint.
        saved: called where everything is on disk and the trial goes on for a while, in which its machine may be lost; by the thread that has saved.
    """

    def __init__(self, asked: Asked | None, keeper: CheckpointKeeper, saved: Callable[[], None] | None = None) -> None:
        self.asked, self.keeper, self.saved = asked, keeper, saved

    def before_epoch(self, parts: TrialParts) -> None:
        """Have the teacher ready for an epoch, which may take hours; or end, where any worker is told to before it is.

        What the teacher gave until then is kept. What the trial has learnt is on disk already, unless the last epochs were not validated.

        Raises:
            TrialInterruptedError: what was not on disk is saved.
        """
        if self.asked is not None and not parts.trainer.prepare(self.asked):
            self.keeper.save_unvalidated(parts)
            raise _ended(parts)

    def after_step(self, parts: TrialParts) -> None:
        """Save and end here, where any worker was told to.

        Raises:
            TrialInterruptedError: the checkpoint is written.
        """
        if self.asked is not None and parts.trainer.world.anyone(self.asked()):
            self.keeper.save_inside_epoch(parts)
            raise _ended(parts)

    @contextmanager
    def beside_steps(self, parts: TrialParts) -> Iterator[None]:
        """Take steps meanwhile. One may last longer than a process that was told to end has left; what was learnt before it is saved beside it then.

        The step goes on all the same: workers wait for each other in it, and its end may still come in time. On a GPU it is waited for: a long one is rare
        there, and whether the one before was taken is only known at its end.
        """
        if self.asked is None or not self.keeper.writes or parts.student.log_inverse_temperature.is_cuda:
            yield
            return
        over = threading.Event()
        saver = threading.Thread(target=self._save_in_time, args=(parts, self.asked, over), daemon=True)
        saver.start()
        try:
            yield
        finally:
            over.set()
            saver.join()

    def _save_in_time(self, parts: TrialParts, asked: Asked, over: threading.Event) -> None:
        standstill = parts.trainer.standstill
        while not over.wait(LOOK_SECONDS):
            # In this order: between two steps the trial itself asks.
            if standstill.seconds() < LONG_SECONDS or not asked():
                continue
            with standstill.held() as still:
                if still:
                    self._save_beside(parts)
                    return

    def _save_beside(self, parts: TrialParts) -> None:
        try:
            if parts.trainer.progress.step_in_epoch:
                self.keeper.save_inside_epoch(parts)
            else:
                self.keeper.save_unvalidated(parts)
            if self.saved is not None:
                self.saved()
        except (RayDistillError, OSError) as problem:
            # After the step the trial tries again, and ends by it.
            logger.warning("what was learnt before this step could not be saved beside it: %s", problem)

    def while_validating(self, parts: TrialParts) -> Callable[[int], None]:
        """What to call before every micro-batch of a validation, which may take longer than a process that was told to end has left.

        An epoch whose validation was cut short is saved as it was after its last step, so that it is validated when the trial goes on. A worker
        alone then ends; others cannot leave at a moment of their own, so the first one saves and goes on. Workers hear of each other between steps
        only: whoever tells another one than the first has to tell the first one too.
        """
        saved = False

        def look(_: int) -> None:
            nonlocal saved
            if saved or not self.keeper.writes or self.asked is None or not self.asked():
                return
            saved = True
            with _before_its_end(parts):
                self.keeper.save_inside_epoch(parts)
                if parts.trainer.world.size == 1:
                    raise _ended(parts)
            if self.saved is not None:
                self.saved()

        return look


@contextmanager
def _before_its_end(parts: TrialParts) -> Iterator[None]:
    """Stand after the last step of the epoch that has just been trained."""
    progress = parts.trainer.progress
    next_epoch = progress.epoch, progress.step_in_epoch
    progress.epoch, progress.step_in_epoch = progress.epoch - 1, parts.steps_per_epoch
    try:
        yield
    finally:
        progress.epoch, progress.step_in_epoch = next_epoch


def _ended(parts: TrialParts) -> TrialInterruptedError:
    progress = parts.trainer.progress
    return TrialInterruptedError(
        f"interrupted in epoch {progress.epoch + 1} after step {progress.step_in_epoch}",
        remedy="start the trial again in the same directory",
    )
