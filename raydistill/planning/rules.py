"""What a coordinator decides by: the few numbers of a campaign's configuration that promotion and early stopping need."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raydistill.config.methods import label_of
from raydistill.config.other_teachers import learns_from_above
from raydistill.config.schema import CampaignConfig, GradeSection, TeacherSection
from raydistill.planning.grades import GradePlan, lineages_of, settled_method, teaching_grade
from raydistill.planning.records import Place
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
        keep_trials: how many trials of a grade keep their checkpoints; None = all.
        kin: the grades, by lineage and number, whose trials may be the same work as those of a grade.
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
    keep_trials: int | None = None
    kin: Mapping[Place, tuple[Place, ...]] = field(default_factory=dict)


def rules_of(config: CampaignConfig, plans: Sequence[GradePlan]) -> Rules:
    """The rules a campaign's configuration asks for."""
    sections: list[TeacherSection | GradeSection] = [config.teacher, *config.grades]
    keep = config.storage.keep_trials
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
        keep_trials=None if keep == "all" else keep,
        kin=_kin(config, plans),
    )


def _kin(config: CampaignConfig, plans: Sequence[GradePlan]) -> dict[Place, tuple[Place, ...]]:
    """By what is known before anything is trained: of these, those that turn out to have equal teachers do equal work."""
    groups: dict[str, list[Place]] = {}
    changing = config.schedule.name == "pipelined"
    for lineage, plan in itertools.product(lineages_of(config), plans):
        section = plan.section and plan.section.model_dump(mode="json", exclude={"method", "trials"})
        method = settled_method(config, lineage, plan)
        # What certainly learns from a teacher does other work under another one; and where teachers change, each lineage has its own.
        taught = plan.section and (learns_from_above(method) or plan.section.init == "teacher")
        teacher = (teaching_grade(config, plan.index), lineage.name if changing else "") if taught else None
        # Its kind alone: values that differ may come to the same, such as a weight of masked features where nothing is masked.
        work = plan.layers, lineage.seed, section, label_of(method), teacher
        groups.setdefault(json.dumps(work, sort_keys=True), []).append((lineage.name, plan.index))
    return {one: tuple(other for other in group if other != one) for group in groups.values() for one in group}
