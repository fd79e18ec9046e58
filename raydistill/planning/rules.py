"""What a coordinator decides by: the few numbers of a campaign's configuration that promotion and early stopping need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raydistill.config.schema import CampaignConfig, GradeSection, TeacherSection
from raydistill.planning.grades import GradePlan
from raydistill.planning.schedule import ScheduleName


@dataclass(frozen=True)
class Rules:
    """What the ladder decides by.

    Attributes:
        schedule: who teaches whom.
        tolerance: MRR difference that counts as a tie at promotion.
        early_stopping: whether poor trials are stopped.
        grace: epochs before that.
        factor: of so many trials about one goes on.
        epochs: epochs of a trial, by grade.
        sizes: layers of a student, by grade.
        min_delta: MRR by which a teacher must beat the announced one.
        settle_epochs: last epochs of a trial, under the final teacher.
    """

    schedule: ScheduleName
    tolerance: float
    early_stopping: bool
    grace: int
    factor: int
    epochs: tuple[int, ...]
    sizes: tuple[int, ...]
    min_delta: float = 0.0
    settle_epochs: int = 1


def rules_of(config: CampaignConfig, plans: Sequence[GradePlan]) -> Rules:
    """The rules a campaign's configuration asks for."""
    sections: list[TeacherSection | GradeSection] = [config.teacher, *config.grades]
    return Rules(
        schedule=config.schedule.name,
        tolerance=config.promotion.tolerance,
        early_stopping=config.search.early_stopping == "asha",
        grace=config.search.grace_epochs,
        factor=config.search.reduction_factor,
        epochs=tuple(section.epochs or config.training.epochs for section in sections),
        sizes=tuple(plan.layers for plan in plans),
        min_delta=config.schedule.min_delta,
        settle_epochs=config.schedule.settle_epochs,
    )
