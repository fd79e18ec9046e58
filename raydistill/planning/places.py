"""How trials share a cluster: how many fit at once, and how many CPUs each gets. Pure functions of the cluster's size, not of its load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from raydistill.config.schema import ResourcesSection

EPSILON = 1e-9
"""The shares of a fractional GPU do not add up exactly in floating point."""


def backend_of(resources: ResourcesSection) -> Literal["inline", "train"]:
    """The back end of a campaign's trials: inline for one worker without a GPU, unless asked otherwise."""
    if resources.backend != "auto":
        return resources.backend
    return "inline" if resources.workers_per_trial == 1 and resources.gpus_per_worker == 0 else "train"


def least_cpus(resources: ResourcesSection) -> float:
    """CPUs a worker gets at least."""
    return 1.0 if resources.cpus_per_worker == "auto" else resources.cpus_per_worker


def capacity(resources: ResourcesSection, cpus: float, gpus: float) -> int:
    """How many trials fit on a cluster at once; 0 = not even one."""
    if resources.concurrent_trials != "auto":
        return resources.concurrent_trials
    room = cpus / (resources.workers_per_trial * least_cpus(resources))
    if resources.gpus_per_worker > 0:
        room = min(room, gpus / (resources.workers_per_trial * resources.gpus_per_worker))
    return int(room + EPSILON)


def cpus_per_worker(
    resources: ResourcesSection, cpus: float, places: int, trials: int, widest: float = math.inf
) -> float:
    """CPUs a worker gets in a grade: what is asked for, or an even share of the cluster, but no more than one machine has.

    Args:
        resources: what the campaign asks for.
        cpus: CPUs of the cluster.
        places: trials that fit on it at once.
        trials: trials of the grade.
        widest: CPUs of the cluster's largest machine. A worker that asks for more waits for ever.
    """
    if resources.cpus_per_worker != "auto":
        return resources.cpus_per_worker
    at_once = max(1, min(trials, places))
    share = min(cpus // (at_once * resources.workers_per_trial), widest)
    return float(max(1, int(share)))


def share_out(free: int, waiting: Sequence[tuple[int, int]]) -> list[int]:
    """How many trials at once each waiting study may run; 0 = it has to go on waiting.

    Args:
        free: places nobody has.
        waiting: places of one trial, and most trials, of each study; first come, first served.
    """
    shares = [0] * len(waiting)
    for index, (weight, limit) in enumerate(waiting):
        if free < weight:
            break
        shares[index] = min(max(1, free // (len(waiting) - index) // weight), limit)
        free -= shares[index] * weight
    return shares


def places_of_a_trial(resources: ResourcesSection, cpus: float, places: int, cpus_each: float) -> int:
    """How many of the cluster's places a trial takes: more than one where its workers were given more CPUs than a place has.

    Args:
        resources: what the campaign asks for.
        cpus: CPUs of the cluster.
        places: trials that fit on it at once.
        cpus_each: CPUs of each worker.
    """
    if resources.concurrent_trials != "auto":
        return 1
    taken = cpus_each * resources.workers_per_trial * places / cpus
    return min(places, max(1, math.ceil(taken - EPSILON)))
