"""What a campaign will do, told before it does anything: which students, how big, under which teacher, how many trials of how many steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from raydistill.config.boot import BootSection
from raydistill.config.methods import label_of
from raydistill.config.schema import CampaignConfig
from raydistill.planning.disk import parameters_of
from raydistill.planning.grades import GradePlan, Lineage, lineages_of, method_of, teaching_grade
from raydistill.planning.ground import Ground
from raydistill.planning.masking import applied_masking
from raydistill.planning.method_values import budgeted
from raydistill.planning.search import Distribution, grade_space, trial_limit


@dataclass(frozen=True)
class GradeOutlook:
    """One grade of a lineage, or of all lineages that differ in their seed alone.

    Attributes:
        lineages: their names.
        grade: its folder.
        layers: of its students.
        parameters: of one before any method changes its shape; None where the encoder does not tell, and for a teacher that is given.
        teacher: folder of the grade that teaches it; empty for the teacher.
        method: its name, or those of its parts; empty for the teacher, which learns by the contrastive term.
        trials: at most, in each lineage; 0 = it is given.
        space: what is searched, by name.
        mask_ratio: that is applied, where it is fixed; None for the teacher, or where it is searched.
        epochs: of a trial, at most.
        steps: of a trial, about: a method that opens the graph part by part may need some more. None where the examples of an epoch are not known.
    """

    lineages: tuple[str, ...]
    grade: str
    layers: int
    parameters: int | None
    teacher: str
    method: str
    trials: int
    space: dict[str, Distribution]
    mask_ratio: float | None
    epochs: int
    steps: int | None


def outlook(config: CampaignConfig, plans: Sequence[GradePlan], ground: Ground) -> list[GradeOutlook]:
    """Every grade, lineage by lineage; one that several lineages share is there once.

    Args:
        config: a campaign that was not refused.
        plans: its grades.
        ground: what they stand on.
    """
    alike = itertools.groupby(lineages_of(config), lambda one: one.method)
    families = [list(lineages) for _, lineages in alike]
    return [
        _grade(config, plans, plan, family, ground)
        for number, family in enumerate(families)
        for plan in plans
        # Lineages of one seed have one teacher, whatever their method.
        if plan.index or not number
    ]


def _grade(
    config: CampaignConfig, plans: Sequence[GradePlan], plan: GradePlan, family: Sequence[Lineage], ground: Ground
) -> GradeOutlook:
    first, section = family[0], plan.section or config.teacher
    space, epochs = grade_space(first, plan), section.epochs or config.training.epochs
    given = plan.section is None and ground.given_teacher is not None
    method = budgeted(method_of(first, plan), ground.epoch_examples)
    examples = method.examples if isinstance(method, BootSection) else ground.epoch_examples
    return GradeOutlook(
        lineages=tuple(one.name for one in family),
        grade=plan.folder,
        layers=plan.layers,
        # A given teacher may be of another encoder.
        parameters=None if given else parameters_of(config, plan, ground),
        teacher=plans[teaching_grade(config, plan.index)].folder if plan.index else "",
        method=label_of(method) if plan.index else "",
        trials=0 if given else trial_limit(space, plan, config.search.algorithm),
        space=space,
        mask_ratio=_fixed_mask(config, first, plan),
        epochs=0 if given else epochs,
        steps=None if examples is None else 0 if given else epochs * -(-examples // config.training.batch_size),
    )


def _fixed_mask(config: CampaignConfig, lineage: Lineage, plan: GradePlan) -> float | None:
    if plan.section is None or not isinstance(asked := plan.section.mask_ratio, float):
        return None
    view = plan.section.view or config.view
    # A ratio that no term of the method looks at is never applied.
    return applied_masking(method_of(lineage, plan), asked, view)[0] if isinstance(view, str) else asked
