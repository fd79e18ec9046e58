"""What a campaign leaves idle of the cluster it begins on: nothing of it is wrong, and somebody may have meant something else."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence

from raydistill.config.resources import ResourcesSection
from raydistill.config.schema import CampaignConfig
from raydistill.planning.grades import GradePlan, lineages_of
from raydistill.planning.search import grade_space, trial_limit

logger = logging.getLogger(__name__)
EPSILON = 1e-6


@functools.cache
def tell_of_unused_gpus(gpus: float) -> None:
    """Say that trials were told to use none. Once in a process: a search over ladders runs many campaigns."""
    logger.warning(
        "the cluster has %g GPUs, and trials train on CPUs: resources.gpus_per_worker is 0; leave it out, and go on with --resume",
        gpus,
    )


def tell_of_spare_gpus(
    config: CampaignConfig, plans: Sequence[GradePlan], resources: ResourcesSection, gpus: float
) -> None:
    """Say that there will never be as many trials at once as there are GPUs.

    Args:
        config: a campaign that has the cluster to itself.
        plans: its grades.
        resources: what a trial gets, in numbers.
        gpus: of the cluster.
    """
    trials = trials_at_once(config, plans)
    if resources.concurrent_trials != "auto":
        trials = min(trials, resources.concurrent_trials)
    used = trials * resources.most_workers * resources.gpus
    if not used or gpus - used < 1 - EPSILON:
        return
    workers = math.floor(gpus / (trials * resources.gpus) + EPSILON)
    if workers > resources.most_workers:
        logger.warning(
            "the cluster has %g GPUs, and this campaign will never use more than %g (%d trials at once of %d workers): set resources.workers_per_trial to %d, and "
            "go on with --resume; or search more points, or compare seeds, in another run",
            gpus,
            used,
            trials,
            resources.most_workers,
            workers,
        )


def trials_at_once(config: CampaignConfig, plans: Sequence[GradePlan]) -> int:
    """Trials that are there at one moment at most: those of a grade in each lineage, or of all its grades where these move together."""
    algorithm = config.search.algorithm
    counts = [
        [trial_limit(grade_space(lineage, plan), plan, algorithm) for plan in plans] for lineage in lineages_of(config)
    ]
    return sum(max(each) if config.schedule.name == "sequential" else sum(each) for each in counts)
