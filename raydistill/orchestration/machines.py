"""The machines of the cluster a campaign runs on: how much room they have together, just now, and which of them the driver is on.

Machines are lost, come back and are added while a campaign runs, so the driver looks again and again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydistill.config.resources import ResourcesSection
from raydistill.planning.places import capacity, least_cpus, places_of_a_trial, share_of_a_trial, workers_that_fit

logger = logging.getLogger(__name__)
ANSWER_SECONDS = 5.0
"""How long the head may take to say who leaves."""


@dataclass(frozen=True)
class Room:
    """What the machines that are there have together.

    Attributes:
        places: trials that fit at once.
        cpus, gpus: of all machines.
        widest: CPUs of the machine that has most of them.
        machines: what each has.
    """

    places: int
    cpus: float
    gpus: float
    widest: float
    # Not compared: Ray lists the room it has set aside for trials among a machine's resources.
    machines: tuple[Mapping[str, float], ...] = field(default=(), compare=False)


def all_machines() -> list[dict[str, float]]:
    """What each machine of the cluster has, but those that are about to go."""
    machines = [one for one in ray.nodes() if one["Alive"]]  # type: ignore[no-untyped-call]
    leaving = _leaving_if_known()
    return [one["Resources"] for one in machines if one["NodeID"] not in leaving]


def leaving_machines(seconds: float = ANSWER_SECONDS) -> set[str]:
    """Machines that were told to end, by their Ray node ids: Ray begins nothing there, and kills what has not ended in time.

    Args:
        seconds: how long the head may take to answer.

    Raises:
        RpcError: the head does not answer.
    """
    here: Any = ray._private.worker.global_worker
    return set(here.gcs_client.get_draining_nodes(timeout=seconds))


def _leaving_if_known() -> set[str]:
    """Nobody where the head does not answer in time: whether it is lost is for `losses.py` to say, which has more patience."""
    try:
        return leaving_machines()
    except RayError:
        return set()


def is_leaving() -> bool:
    """Whether the machine of this process is one of them."""
    return ray.get_runtime_context().get_node_id() in leaving_machines()


def free_machines() -> list[dict[str, float]]:
    """What is free on each machine of the cluster at the moment."""
    leaving = _leaving_if_known()
    return [free for name, free in available_resources_per_node().items() if name not in leaving]  # type: ignore[no-untyped-call]


def room_of(resources: ResourcesSection) -> Room:
    """The room there is for a campaign's trials at this moment, whoever uses it."""
    machines = all_machines()
    cpus, gpus = (sum(float(one.get(kind, 0)) for one in machines) for kind in ("CPU", "GPU"))
    widest = max((float(one.get("CPU", 0)) for one in machines), default=0.0)
    return Room(capacity(resources, cpus, gpus), cpus, gpus, widest, tuple(machines))


class Machines:
    """The room of one campaign, as it was when it was last looked at.

    Args:
        resources: what a trial gets.
        room: what there is at the start.
        beside: campaigns that share it, this one among them.
        alone: the grades that train on all of it: the other campaigns wait for them.
    """

    def __init__(self, resources: ResourcesSection, room: Room, beside: int = 1, alone: Collection[int] = ()) -> None:
        self.resources, self.beside, self.alone = resources, beside, alone
        self.room = self.most = room
        self._added = 0

    def look(self) -> bool:
        """See how much room there is now; returns whether that has changed."""
        before, self.room = self.room, room_of(self.resources)
        if self.room == before:
            return False
        self.most = max(self.most, self.room, key=lambda room: (room.places, room.cpus))
        self._added = max(0, self._added + self.room.places - before.places)
        places = self.room.places
        logger.info(
            "the cluster has %g CPUs and %g GPUs now: room for %d trials", self.room.cpus, self.room.gpus, places
        )
        return True

    def added(self) -> int:
        """Places that have come and that nobody has asked for yet; asked for once."""
        added, self._added = self._added, 0
        return added

    def share(self, trials: int, grade: int | None = None) -> tuple[int, float]:
        """Workers of each trial where there are so many, and as many in each campaign beside this one, and CPUs of each worker.

        By the most room there has been: the loss of a machine must not change what is trained, as long as it can be trained.

        Args:
            trials: in this campaign.
            grade: theirs; one of those that train on all there is has no campaigns beside it.
        """
        most, trials = self.most, trials * (1 if grade in self.alone else self.beside)
        return share_of_a_trial(
            self.resources, most.cpus, most.gpus, self.room.widest, most.places, trials, most.machines
        )

    def divided(self, cpus: float, grade: int) -> float:
        """CPUs of a worker in a grade that had all machines, where the other campaigns do not wait any more."""
        if self.beside == 1 or grade not in self.alone:
            return cpus
        return max(cpus // self.beside, least_cpus(self.resources))

    def within(self, cpus: float) -> float:
        """As many CPUs for one worker as are asked for, or as some machine that is there has: whoever asks for more waits for ever."""
        least = least_cpus(self.resources)
        while cpus > least and workers_that_fit(self.resources, cpus, self.room.machines) == 0:
            cpus -= 1
        return max(cpus, least)

    def least_team(self, cpus: float) -> int:
        """As many workers with so many CPUs each as a trial has at least, or as the machines that are there have room for."""
        return max(1, min(self.resources.least_workers, workers_that_fit(self.resources, cpus, self.room.machines)))

    def weight(self, cpus: float, workers: int) -> int:
        """Places that a trial takes that has so many workers with so many CPUs each."""
        if not self.room.cpus:
            return 1
        return places_of_a_trial(self.resources, self.room.cpus, self.room.places, cpus, workers)


def beside_driver() -> dict[str, Any]:
    """Options of an actor that belongs to the driver: on its machine, and without a CPU of it.

    Ray puts an actor that asks for nothing anywhere. The campaign's own would then be lost with a machine that is none of theirs, and be made
    anew from the ledger; here they are lost only together with the driver, which needs `--resume` in any case.
    """
    here = ray.get_runtime_context().get_node_id()
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False)}
