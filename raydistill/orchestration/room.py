"""The room that dead processes leave taken on the cluster.

Ray frees a placement group when the actor that made it *and* its job are gone. A trial's is made by the process of its search, its workers' by the
trial: when one of these is killed, what it started dies too, but the CPUs stay taken for as long as the campaign runs, and the
next trial waits for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import ray
from ray import ActorID, PlacementGroupID
from ray._private.state import state
from ray.core.generated import gcs_pb2
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup

KIND: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]


class Request(NamedTuple):
    """Room that a process of this job has asked for.

    Attributes:
        name: of the placement group, as Ray has it.
        parts: what each part asks for, such as {"CPU": 2.0}.
        waits: whether it is still to be found.
    """

    name: str
    parts: tuple[Mapping[str, float], ...]
    waits: bool


def free_orphaned_room() -> int:
    """Give back the room of this job whose maker is dead; returns how many placement groups that were.

    The public table of placement groups does not say who made them, so the record behind it is read. What no actor made is the driver's own; its maker
    passes for dead, too.
    """
    freed = 0
    for group in _groups():
        if _is_made_by_actor(group) and group.creator_actor_dead:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
            freed += 1
    return freed


def requests_for_room() -> list[Request]:
    """What this job has asked for, and has or waits for. The driver's own passes for found: whoever asked waits for it with a clock of his own."""
    return [
        Request(
            group.placement_group_id.hex(),
            tuple(dict(part.unit_resources) for part in group.bundles),
            _is_made_by_actor(group) and group.state in (KIND.PENDING, KIND.RESCHEDULING),
        )
        for group in _groups()
    ]


def _groups() -> Iterator[Any]:
    job = ray.get_runtime_context().get_job_id()
    for row in state._connect_and_get_accessor().get_placement_group_table():
        group = KIND.FromString(row)
        if group.state != KIND.REMOVED and group.creator_job_id.hex() == job:
            yield group


def _is_made_by_actor(group: Any) -> bool:
    return group.creator_actor_id not in (b"", ActorID.nil().binary())
