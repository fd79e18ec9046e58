"""Waiting for the first machines of a cluster: its head may have no CPU, and the others come one after another, or only when something asks for them."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterator

from ray.util import remove_placement_group

from raydistill.config.resources import ResourcesSection
from raydistill.orchestration.cluster import may_grow
from raydistill.orchestration.machines import Room, room_of
from raydistill.orchestration.together import Team
from raydistill.planning.places import gpus_for_each, least_cpus, workers_that_fit

logger = logging.getLogger(__name__)
WAIT_SECONDS = 1800.0
"""A cloud takes minutes to find a machine with a GPU, and the machine a quarter of an hour to install torch. Workers of a trial wait as long."""
LOOK_SECONDS = 1.0


def has_room(resources: ResourcesSection, room: Room) -> bool:
    """Whether a trial can begin, or may wait for a machine. It may with a number of trials at once, where others can join: waiting trials make them."""
    fits = workers_that_fit(resources, least_cpus(resources), room.machines)
    return fits >= resources.least_workers or (resources.concurrent_trials != "auto" and may_grow())


def settled(resources: ResourcesSection, room: Room) -> ResourcesSection:
    """What a trial gets, in numbers: the campaign's, for as long as this process runs it."""
    if resources.gpus_per_worker != "auto":
        return resources
    each = gpus_for_each(resources.least_workers, room.gpus)
    if each:
        logger.info("resources.gpus_per_worker is auto: %g for each worker, of the cluster's %g", each, room.gpus)
    elif may_grow():
        _tell_of_no_gpu()
    return resources.model_copy(update={"gpus_per_worker": each})


@functools.cache
def _tell_of_no_gpu() -> None:
    """Once in a process: a search over ladders runs one campaign after another."""
    logger.warning(
        "resources.gpus_per_worker is auto, and the cluster has no GPU now: trials train on CPUs; where machines with GPUs join later, set it to 1"
    )


def awaited_room(resources: ResourcesSection) -> Room:
    """The room there is for trials: at once where there is some, or nobody can join; else as soon as machines bring it.

    After WAIT_SECONDS it is returned as it is, without room for a trial.
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
