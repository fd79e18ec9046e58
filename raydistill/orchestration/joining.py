"""Waiting for the first machines of a cluster: its head may have no CPU, and the others come one after another, or only when something asks for them."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util import remove_placement_group

from raydistill.config.resources import ResourcesSection
from raydistill.config.schema import CampaignConfig
from raydistill.orchestration.cluster import may_grow
from raydistill.orchestration.machines import Room, free_machines, room_of
from raydistill.orchestration.together import Team
from raydistill.planning.places import SHARES, capacity, gpus_for_each, least_cpus, workers_that_fit

logger = logging.getLogger(__name__)
WAIT_SECONDS = 1800.0
"""A cloud takes minutes to find a machine with a GPU, and the machine a quarter of an hour to install torch. Workers of a trial wait as long."""
LOOK_SECONDS = 1.0
ANSWER_SECONDS = 60.0
"""Between looks at whether GPUs are free, while a process that has a part of one is waited for."""
LOOKS = 5


def has_room(resources: ResourcesSection, room: Room) -> bool:
    """Whether a trial can begin, or may wait for a machine. It may with a number of trials at once, where others can join: waiting trials make them."""
    fits = workers_that_fit(resources, least_cpus(resources), room.machines)
    return fits >= resources.least_workers or (resources.concurrent_trials != "auto" and may_grow())


def settled(resources: ResourcesSection, room: Room) -> ResourcesSection:
    """What a trial gets, in numbers: the campaign's, for as long as this process runs it.

    auto is a GPU for each worker where a trial fits so on the machines that are there; else, on this machine alone, an equal part of one; else none.
    """
    if resources.gpus_per_worker != "auto":
        return resources
    workers = resources.least_workers
    each = [0.0]
    if room.gpus and torch_sees_gpus():
        # Elsewhere machines may join, whose GPUs are not to be left for a part of the first one's.
        each = [1.0, 0.0] if may_grow() else [1.0, gpus_for_each(workers, room.gpus), 0.0]
    asked = [resources.model_copy(update={"gpus_per_worker": one}) for one in each]
    found = next((one for one in asked if workers_that_fit(one, least_cpus(one), room.machines) >= workers), asked[-1])
    if found.gpus:
        logger.info("resources.gpus_per_worker is auto: %g for each worker, of %g", found.gpus, room.gpus)
    elif room.gpus or may_grow():
        _tell_of_no_gpu(room.gpus, seen=not room.gpus or torch_sees_gpus())
    return found


@functools.cache
def _tell_of_no_gpu(gpus: float, *, seen: bool | None) -> None:
    """Once in a process: a search over ladders runs many campaigns."""
    if seen is None:
        why, remedy = "nobody could say whether torch sees them", "set it to 1 to use them all the same, or to 0"
    elif not seen:
        why, remedy = (
            "torch there sees none of them (it is a build for processors, or the driver is too old)",
            "install a build of torch for CUDA, or set it to 0",
        )
    elif gpus:
        why, remedy = (
            "the machines have no room for a trial's workers with a GPU each, beside the CPUs they ask for",
            "lower resources.cpus_per_worker or resources.workers_per_trial, set it to 1 to wait for GPUs, or to 0",
        )
    else:
        why, remedy = "there may be some later", "set it to 1 to wait for GPUs, or to 0"
    logger.warning(
        "resources.gpus_per_worker is auto, the cluster has %g GPUs now, and %s: trials train on CPUs; %s",
        gpus,
        why,
        remedy,
    )


@functools.cache
def torch_sees_gpus() -> bool | None:
    """Whether torch can use the GPUs that Ray has counted: its build may be one for processors, or the machine's driver too old. None = nobody could say."""
    asked: Any = ray.remote(num_cpus=0, num_gpus=1 / SHARES)(_is_cuda_there)
    answer = asked.remote()
    try:
        for _ in range(LOOKS):
            with contextlib.suppress(GetTimeoutError):
                return bool(ray.get(answer, timeout=ANSWER_SECONDS))
            if not any(one.get("GPU") for one in free_machines()):
                # All are taken, by somebody who can use them.
                return True
    except RayError as problem:
        said = next(iter(str(problem).strip().splitlines()), type(problem).__name__)
        logger.warning("whether torch sees the cluster's GPUs could not be asked: %s", said)
        return None
    finally:
        ray.cancel(answer)
    logger.warning(
        "no process of the cluster has said within %d minutes whether torch sees its GPUs", LOOKS * ANSWER_SECONDS / 60
    )
    return None


def _is_cuda_there() -> bool:
    import torch

    return torch.cuda.is_available()


def awaited_room(resources: ResourcesSection, heed: Callable[[], None] = lambda: None) -> Room:
    """The room there is for trials: at once where there is some, or nobody can join; else as soon as machines bring it.

    After WAIT_SECONDS it is returned as it is, without room for a trial.

    Args:
        resources: what a trial needs.
        heed: called again and again; raises where the wait is to end.
    """
    room = room_of(resources)
    if has_room(resources, room) or not may_grow():
        return room
    logger.warning(
        "the cluster has %g CPUs and %g GPUs, and no room for a trial yet (%d x %g CPUs and %g GPUs); waiting up to %d minutes for machines to join",
        room.cpus,
        room.gpus,
        resources.least_workers,
        least_cpus(resources),
        resources.gpus,
        WAIT_SECONDS / 60,
    )
    deadline = time.monotonic() + WAIT_SECONDS
    with _asked_for(resources):
        while not has_room(resources, room) and time.monotonic() < deadline:
            heed()
            time.sleep(LOOK_SECONDS)
            room = room_of(resources)
    return room


@contextlib.contextmanager
def _asked_for(resources: ResourcesSection) -> Iterator[None]:
    """Ask for the room of one trial: what starts machines on demand starts them for requests that wait."""
    request = Team.of(resources, resources.least_workers, least_cpus(resources)).room()
    try:
        yield
    finally:
        remove_placement_group(request)


def tell_of_places(config: CampaignConfig) -> None:
    """Say of a search over ladders that it leaves machines idle, or has more ladders at once than find room."""
    resources, room = config.resources, room_of(config.resources)
    machines = sum(one.get("CPU", 0) > 0 for one in room.machines)
    several = resources.concurrent_ladders > 1 or resources.most_workers > 1 or config.schedule.name == "pipelined"
    if not several and (machines > 1 or room.gpus > 1):
        logger.warning(
            "one ladder runs at a time, and one trial of it; the cluster has %d machines with CPUs and %g GPUs: set resources.concurrent_ladders, and go on with --resume",
            machines,
            room.gpus,
        )
    at_once = min(resources.concurrent_ladders, config.ladders.ladders if config.ladders is not None else 1)
    # Where there is no room yet, or a number of trials waits for machines that grow on demand, what is there says nothing.
    if at_once > 1 and room.places and resources.concurrent_trials == "auto":
        needs = settled(resources, room)
        places = capacity(needs, room.cpus, room.gpus)
        if places < at_once:
            logger.warning(
                "%d ladders are to run at once, and the cluster has room for %d trials (%d x %g CPUs and %g GPUs each): ladders wait for each other; "
                "lower resources.concurrent_ladders or what a trial gets, and go on with --resume",
                at_once,
                places,
                needs.least_workers,
                least_cpus(needs),
                needs.gpus,
            )
