"""One piece of work done by several processes, which exchange tensors as the workers of a trial do. What is no trial needs no Ray Train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raydistill.config.resources import ResourcesSection
from raydistill.errors import ProcessError, RayDistillError, RoomError
from raydistill.orchestration.asking import ask
from raydistill.orchestration.orphans import end_with_head
from raydistill.planning.places import process_group_of

ATTEMPTS = 3
"""How often work is begun of which a process dies: it may have been lost with its machine."""
DEATHS = (RayActorError, OutOfMemoryError, NodeDiedError, ObjectLostError)
"""What says that a process died; the second where Ray ended it before the machine ran out of memory."""
ROOM_SECONDS = 120.0
"""How long room is waited for. What is not there by then may be that of a machine which was lost, and is planned anew."""
START_SECONDS = 600.0
"""How long processes may take to start where there is room for them."""
MEETING_SECONDS = 1800.0
"""How long they wait for each other to come."""
LEAVE_SECONDS = 30.0
"""How long the others may take to end when the first one is done."""
DEATH_SECONDS = 120.0
"""How long they may where it is not known why it ended: that a machine is lost, a cluster notices after half a minute or more."""


@dataclass(frozen=True)
class Team:
    """The processes.

    Attributes:
        size: how many.
        cpus: of each.
        gpus: of each.
        placement: "PACK", "STRICT_PACK" or "SPREAD", as Ray names them.
        group: how they exchange tensors: "gloo" or "nccl".
    """

    size: int
    cpus: float
    gpus: float
    placement: str
    group: str

    @classmethod
    def of(cls, resources: ResourcesSection, size: int, cpus: float) -> Team:
        """So many that each get so many CPUs, and what else a worker of a trial gets."""
        return cls(size, cpus, resources.gpus, resources.placement.upper(), process_group_of(resources))

    def room(self) -> PlacementGroup:
        """Ask the cluster for room, and do not wait for it; to be given back with `ray.util.remove_placement_group`."""
        each = {kind: amount for kind, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount > 0}
        room: PlacementGroup = placement_group([each] * self.size, strategy=self.placement)
        return room


def together(work: Callable[..., Any], arguments: Sequence[Any], team: Team, room: PlacementGroup) -> Any:
    """What several processes find together, each calling `work(*arguments)` in one process group.

    Called in a process of the cluster, which imports no torch for it. Nothing is tried again here: where a machine was lost there may be room for another team only.

    Args:
        work: importable by name; all calls return the same, and the first one's answer is taken.
        arguments: the same for all.
        team: how many they are, and what each gets.
        room: the team's, which is its maker's to give back: this process may be lost, too.

    Raises:
        RoomError: there was no room for them, or not for long enough to start them all.
        ProcessError: one of them died.
        RayDistillError: of the kind that `work` raised.
    """
    try:
        return _together(work, arguments, team, room)
    except DEATHS as problem:
        # Ray's own error does not leave a task as what it is: it cannot be pickled (Ray 2.60).
        raise ProcessError(
            f"one of {team.size} processes died: {next(iter(str(problem).strip().splitlines()), type(problem).__name__)}",
            expected="memory for the model in each process, and for the vectors of all entities in all of them",
            consequence="the others would wait for it",
            remedy="begin anew; where it dies again, take more workers, or machines with more memory",
        ) from None


def _together(work: Callable[..., Any], arguments: Sequence[Any], team: Team, room: PlacementGroup) -> Any:
    if not room.wait(ROOM_SECONDS):
        raise _no_room(f"no room for {team.size} processes after {ROOM_SECONDS:g} s", team)
    members: list[Any] = []
    try:
        for place in range(team.size):
            where = PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=place)
            options = {"num_cpus": team.cpus, "num_gpus": team.gpus, "scheduling_strategy": where}
            member: Any = ray.remote(_Member)
            members.append(member.options(**options).remote(team))
        meeting, *_ = _started([one.start.remote(rank) for rank, one in enumerate(members)], team)
        return _answer([one.work.remote(rank, meeting, work, arguments) for rank, one in enumerate(members)])
    finally:
        # Not tasks that are cancelled: to cancel one by force may end the process that asks for it (Ray 2.60).
        for one in members:
            ray.kill(one)


def _started(answers: Sequence[Any], team: Team) -> list[Any]:
    """What the members say when all of them are there."""
    done, late = ray.wait(list(answers), num_returns=len(answers), timeout=START_SECONDS)
    # A death explains why another one is late.
    for one in done:
        ask(one)
    if late:
        raise _no_room(f"{len(late)} of {team.size} processes had not started after {START_SECONDS:g} s", team)
    return [ask(one) for one in answers]


def _no_room(received: str, team: Team) -> RoomError:
    return RoomError(
        received,
        expected=f"room for {team.size} x {team.cpus:g} CPUs and {team.gpus:g} GPUs",
        consequence="those that have room would wait for the others",
        remedy="wait until others leave the cluster, or ask for fewer",
    )


def _answer(answers: Sequence[Any]) -> Any:
    """What the first one found, when all have ended; or the error that explains what the others then say of an exchange that came to nothing."""
    waiting, problems, patience = list(answers), list[Exception](), None
    while waiting:
        done, waiting = ray.wait(waiting, timeout=patience)
        if not done:
            break
        for one in done:
            try:
                ask(one)
            except Exception as problem:
                problems.append(problem)
        # Whoever has ended, well or not, leaves the others nothing to wait for; but of an exchange that came to nothing one of them may tell why.
        echoes = bool(problems) and all(map(_is_echo, problems))
        patience = DEATH_SECONDS if echoes else LEAVE_SECONDS
    if problems:
        raise min(problems, key=_explains)
    return ask(answers[0])


def _explains(problem: Exception) -> int:
    """Ours before a death, and a death before what may be its echo."""
    return 0 if isinstance(problem, RayDistillError) else 2 if _is_echo(problem) else 1


def _is_echo(problem: Exception) -> bool:
    """Whether a process lives, and tells of an error that is none of ours: an exchange in which another is missing is one."""
    return isinstance(problem, RayTaskError)


class _Member:
    """Runs in each of the processes."""

    def __init__(self, team: Team) -> None:
        self.team = team
        end_with_head()

    def start(self, rank: int) -> tuple[Any, ...] | None:
        """Where the others find the first one."""
        if rank:
            return None
        from raydistill.orchestration.meeting import open_meeting

        # As a plain tuple: to unpickle another one, whoever asks would import what it is of, and torch with it.
        return tuple(open_meeting(_here()))

    def work(self, rank: int, meeting: tuple[Any, ...], work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Join the others, and do it."""
        from raydistill.devices import keep_to
        from raydistill.orchestration.meeting import Meeting, join

        keep_to(self.team.gpus)
        join(Meeting(*meeting), rank, self.team.size, self.team.group, MEETING_SECONDS, _here())
        return work(*arguments)


def _here() -> str:
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
