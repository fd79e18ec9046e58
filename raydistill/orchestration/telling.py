"""What a trial tells the coordinator: its epochs, and what went wrong."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from raydistill.config.trial import TeacherReference
from raydistill.errors import RayDistillError, ShapeError, StorageError, TeacherError, TrainingError
from raydistill.orchestration.asking import ask, unwrapped
from raydistill.planning.records import TrialKey

if TYPE_CHECKING:
    from raydistill.training.trial import EpochReport

logger = logging.getLogger(__name__)


def send(coordinator: Any, key: TrialKey, report: EpochReport) -> bool:
    """Tell the coordinator of a completed epoch; True = end the trial here."""
    files = report.checkpoint, report.digest
    answer: bool = ask(coordinator.report.remote(key, report.epoch, dict(report.metrics), *files, report.finished))
    return answer


class Guide:
    """Asks the coordinator who teaches an epoch, and remembers that nobody does yet.

    Args:
        coordinator: handle of the coordinator.
        key: the trial.
    """

    def __init__(self, coordinator: Any, key: TrialKey) -> None:
        self.coordinator, self.key = coordinator, key
        self.waits = False

    def __call__(self, epoch: int) -> TeacherReference | None:
        """The teacher of an epoch, from 0."""
        answer: TeacherReference | None = ask(self.coordinator.teach.remote(self.key, epoch))
        self.waits = answer is None
        return answer


def settle(coordinator: Any, key: TrialKey, problem: BaseException) -> bool:
    """Decide what an error means: a trial that trains badly fails alone; what would hit every trial ends the campaign.

    Returns:
        Whether the trial goes on, from its newest checkpoint: another teacher takes the place of a damaged one that was only announced.
    """
    problem = unwrapped(problem)
    if isinstance(problem, TeacherError) and ask(coordinator.reject_teacher.remote(key, problem.received)):
        logger.warning("trial %s asks for another teacher: %s", key, problem.received)
        return True
    alone = isinstance(problem, (TrainingError, ShapeError)) and not isinstance(problem, StorageError)
    if isinstance(problem, RayDistillError) and not alone:
        ask(coordinator.abort.remote(problem))
        return False
    if isinstance(problem, RayDistillError):
        reason = problem.received
    else:
        reason = f"{type(problem).__name__}: {problem}"
        logger.error("trial %s failed", key, exc_info=problem)
    ask(coordinator.fail.remote(key, reason))
    return False
