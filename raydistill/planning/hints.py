"""What is said of a campaign before it starts: nothing of it is wrong, and somebody may have meant something else."""

from __future__ import annotations

import itertools
import logging

from raydistill.config.methods import masks_itself, parts_of
from raydistill.config.other_teachers import takes_earlier
from raydistill.config.schema import CampaignConfig
from raydistill.config.space import Choice, Uniform, is_distribution
from raydistill.planning.grades import GradePlan, lineages_of, method_of
from raydistill.planning.ground import Ground
from raydistill.planning.masking import applied_masking
from raydistill.planning.search import grade_space, is_search, with_zero

logger = logging.getLogger(__name__)
FEW_STEPS = 3
SOME_RATIO = 0.5


def tell(config: CampaignConfig, plans: tuple[GradePlan, ...], ground: Ground) -> None:
    """Say it in the log.

    Args:
        config: one that was not refused.
        plans: its grades.
        ground: what they stand on.
    """
    _tell_of_zero(plans)
    _tell_of_one_point(config, plans)
    _tell_of_no_masks(config, plans)
    _tell_of_places(config, plans)
    _tell_of_earlier(config, plans)
    _tell_of_idle(config, plans)
    _tell_of_few_steps(config, plans, ground)


def _tell_of_zero(plans: tuple[GradePlan, ...]) -> None:
    for plan in plans:
        asked = plan.section.mask_ratio if plan.section is not None else None
        if isinstance(asked, (Choice, Uniform)) and with_zero(asked) != asked:
            logger.info("%s: mask ratio 0 joins the values to be searched", plan.folder)


def _tell_of_one_point(config: CampaignConfig, plans: tuple[GradePlan, ...]) -> None:
    for plan in plans:
        spaces = [grade_space(lineage, plan) for lineage in lineages_of(config)]
        space = max(spaces, key=len)
        if plan.trials == 1 and config.search.algorithm != "grid" and is_search(space):
            logger.warning(
                "%s: %s would be searched, and one trial is asked for, of one random point; set search.trials, or trials of that grade",
                plan.folder,
                ", ".join(sorted(space)),
            )


def _tell_of_no_masks(config: CampaignConfig, plans: tuple[GradePlan, ...]) -> None:
    """Where methods are compared, one of them that masks is enough."""
    for plan in plans:
        section = plan.section
        if section is None or section.mask_ratio == 0:
            continue
        view = section.view or config.view
        views = view.choice if isinstance(view, Choice) else (view,)
        methods = [method_of(lineage, plan) for lineage in lineages_of(config)]
        if all(applied_masking(method, SOME_RATIO, one)[0] == 0 for method in methods for one in views):
            shared = "" if all(map(masks_itself, methods)) else "set view: shared, or "
            logger.warning(
                "%s: mask_ratio changes nothing under %s with view %s; %sleave mask_ratio out",
                plan.folder,
                ", ".join(dict.fromkeys(f"method {method.name}" for method in methods)),
                " or ".join(views),
                shared,
            )


def _tell_of_places(config: CampaignConfig, plans: tuple[GradePlan, ...]) -> None:
    """Not refused: the results are right, and a run that was begun so may have to go on in less room."""
    places, grades = config.resources.concurrent_trials, len(plans) - (config.teacher.checkpoint is not None)
    if config.schedule.name == "pipelined" and places != "auto" and places < grades:
        how = "run one after another" if places == 1 else "cannot all move at once"
        logger.warning(
            "schedule.name is pipelined and resources.concurrent_trials %d, for all grades together: %d grades %s; give it at least %d, or auto",
            places,
            grades,
            how,
            grades,
        )


def _tell_of_earlier(config: CampaignConfig, plans: tuple[GradePlan, ...]) -> None:
    pairs = itertools.product(lineages_of(config), plans[2:])
    if config.schedule.name != "sequential" and any(takes_earlier(method_of(*pair)) for pair in pairs):
        logger.info(
            "schedule.name is %s: method reinforced has the teacher of each grade and the checkpoints it names, and no earlier grades",
            config.schedule.name,
        )


def _tell_of_idle(config: CampaignConfig, plans: tuple[GradePlan, ...]) -> None:
    methods = [method_of(lineage, plan) for lineage, plan in itertools.product(lineages_of(config), plans[1:])]
    told = {
        (part.name, name): (why, is_distribution(getattr(part, name)))
        for method in methods
        for part in parts_of(method)
        for name, why in part.idle().items()
    }
    for (method, name), (why, searched) in told.items():
        cost = ", and trials that differ in it alone do the same work" if searched else ""
        logger.warning("method %s has %s, which changes nothing: %s%s; leave it out", method, name, why, cost)


def _tell_of_few_steps(config: CampaignConfig, plans: tuple[GradePlan, ...], ground: Ground) -> None:
    """A batch that holds the whole graph: an epoch is a step, and what comes out is poor for no visible reason."""
    examples, batch = ground.epoch_examples, config.training.batch_size
    if not examples or (steps := -(-examples // batch)) > FEW_STEPS:
        return
    epochs = max(
        [plan.section.epochs or config.training.epochs for plan in plans if plan.section is not None], default=0
    )
    logger.warning(
        "an epoch of %d examples has %d step%s of training.batch_size %d, so a grade's %d epochs change the weights %d times; lower batch_size (to %d, say), or raise epochs",
        examples,
        steps,
        "s" * (steps > 1),
        batch,
        epochs,
        steps * epochs,
        max(8, examples // 20),
    )
