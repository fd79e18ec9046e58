"""How trials share a cluster: how many fit at once, and how many CPUs each gets. Pure functions of the cluster's size, not of its load."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from raydistill.config.resources import ResourcesSection

SHARES = 10_000
EPSILON = 1e-9
"""The shares of a fractional GPU do not add up exactly in floating point."""


def backend_of(resources: ResourcesSection) -> Literal["inline", "train"]:
    """The back end of a campaign's trials: inline for one worker without a GPU, unless asked otherwise."""
    if resources.backend != "auto":
        return resources.backend
    return "inline" if resources.most_workers == 1 and resources.gpus == 0 else "train"


def process_group_of(resources: ResourcesSection) -> Literal["gloo", "nccl"]:
    """How the workers of a trial exchange tensors: NCCL refuses two workers on one GPU, which workers with a fraction of one may be."""
    return "nccl" if resources.gpus >= 1 else "gloo"


def gpus_for_each(workers: int, gpus: float) -> float:
    """GPUs that each of so many workers gets of so many: one, or an equal part of one where there are fewer than workers, or none."""
    whole = int(gpus)
    if not whole:
        return 0.0
    # Ray counts in ten-thousandths and rounds them: six times a sixth would be more than one.
    return 1.0 if whole >= workers else math.floor(SHARES / -(-workers // whole)) / SHARES


def least_cpus(resources: ResourcesSection) -> float:
    """CPUs a worker gets at least."""
    return 1.0 if resources.cpus_per_worker == "auto" else resources.cpus_per_worker


def capacity(resources: ResourcesSection, cpus: float, gpus: float) -> int:
    """How many trials fit on a cluster at once, with as few workers each as they may have; 0 = not even one."""
    if resources.concurrent_trials != "auto":
        return resources.concurrent_trials
    return int(_room_for_workers(resources, cpus, gpus) / resources.least_workers + EPSILON)


def workers_of_a_trial(resources: ResourcesSection, cpus: float, gpus: float, places: int, trials: int) -> int:
    """Workers that each trial of a grade is to have, where all machines are there: an even share of the cluster.

    Args:
        resources: what the campaign asks for.
        cpus: CPUs of the cluster.
        gpus: GPUs of the cluster.
        places: trials that fit on it at once.
        trials: trials of the grade.
    """
    if resources.concurrent_trials != "auto":
        # Such a cluster may grow on demand: what it has now says nothing.
        return resources.most_workers
    share = _room_for_workers(resources, cpus, gpus) / max(1, min(trials, places))
    return min(resources.most_workers, max(resources.least_workers, int(share + EPSILON)))


def workers_that_fit(resources: ResourcesSection, cpus_each: float, machines: Sequence[Mapping[str, float]]) -> int:
    """Workers of one trial that fit into what is free now.

    Args:
        resources: what the campaign asks for.
        cpus_each: CPUs of each worker.
        machines: free CPU and GPU of every machine.
    """
    counts = [0]
    for free in machines:
        count = free.get("CPU", 0.0) / cpus_each
        if resources.gpus > 0:
            count = min(count, _gpu_shares(free.get("GPU", 0.0), resources.gpus))
        counts.append(int(count + EPSILON))
    return max(counts) if resources.placement == "strict_pack" else sum(counts)


def _room_for_workers(resources: ResourcesSection, cpus: float, gpus: float) -> float:
    room = cpus / least_cpus(resources)
    return min(room, _gpu_shares(gpus, resources.gpus)) if resources.gpus > 0 else room


def _gpu_shares(gpus: float, each: float) -> float:
    """Workers that so many GPUs have room for: a fraction lies on one GPU, so two of 0.4 fit on each, and never a fifth on what is left of two."""
    if each >= 1:
        return gpus / each
    whole = int(gpus + EPSILON)
    return whole * int(1 / each + EPSILON) + int((gpus - whole) / each + EPSILON)


def cpus_per_worker(
    resources: ResourcesSection,
    cpus: float,
    places: int,
    trials: int,
    widest: float = math.inf,
    workers: int | None = None,
) -> float:
    """CPUs a worker gets in a grade: what is asked for, or an even share of the cluster, but no more than one machine has.

    Args:
        resources: what the campaign asks for.
        cpus: CPUs of the cluster.
        places: trials that fit on it at once.
        trials: trials of the grade.
        widest: CPUs of the cluster's largest machine. A worker that asks for more waits for ever.
        workers: of each trial; None = the least.
    """
    if resources.cpus_per_worker != "auto":
        return resources.cpus_per_worker
    at_once, workers = max(1, min(trials, places)), workers or resources.least_workers
    if resources.placement == "strict_pack":
        widest //= workers
    share = min(cpus // (at_once * workers), widest)
    return float(max(1, int(share)))


def share_of_a_trial(
    resources: ResourcesSection,
    cpus: float,
    gpus: float,
    widest: float,
    places: int,
    trials: int,
    machines: Sequence[Mapping[str, float]] = (),
) -> tuple[int, float]:
    """Workers of each trial of a grade, and CPUs of each worker; arguments as above.

    A share is a number, and machines are whole: on `machines` of 4 and 2 CPUs there is no room for two workers of 3, nor for one of 16 where only those of 8
    have a GPU. So the CPUs of a worker fall until a trial fits.
    """
    workers = workers_of_a_trial(resources, cpus, gpus, places, trials)
    each = cpus_per_worker(resources, cpus, places, trials, widest, workers)
    while (
        resources.cpus_per_worker == "auto"
        and machines
        and each > 1
        and workers_that_fit(resources, each, machines) < workers
    ):
        each -= 1
    return workers, each


def share_out(free: int, waiting: Sequence[tuple[int, int]], to_come: int = 0) -> list[int]:
    """How many trials at once each waiting study may run; 0 = it has to go on waiting.

    Args:
        free: places nobody has.
        waiting: places of one trial, and most trials, of each study; first come, first served.
        to_come: studies that will move beside these ones, and that one trial's places are left for where there are any to spare.
    """
    shares = [0] * len(waiting)
    for index, (weight, limit) in enumerate(waiting):
        if free < weight:
            break
        spare = free - to_come * weight
        shares[index] = min(max(1, spare // (len(waiting) - index) // weight), limit)
        free -= shares[index] * weight
    return shares


def places_of_a_trial(
    resources: ResourcesSection, cpus: float, places: int, cpus_each: float, workers: int | None = None
) -> int:
    """How many of the cluster's places a trial takes: more than one where it was given more workers or CPUs than a place has.

    Args:
        resources: what the campaign asks for.
        cpus: CPUs of the cluster.
        places: trials that fit on it at once.
        cpus_each: CPUs of each worker.
        workers: of the trial; None = the least.
    """
    if resources.concurrent_trials != "auto":
        return 1
    workers = workers or resources.least_workers
    taken = max(cpus_each * workers * places / cpus, workers / resources.least_workers)
    return max(1, min(places, math.ceil(taken - EPSILON)))
