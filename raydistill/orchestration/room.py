"""The room that dead processes leave taken on the cluster.

Ray frees a placement group when the actor that made it *and* its job are gone. A trial's is made by the process of its search, its workers' by the
trial: when one of these is killed, what it started dies too, but the CPUs stay taken for as long as the campaign runs, and the
next trial waits for ever.
"""

from __future__ import annotations

from typing import Any

import ray
from ray import ActorID, PlacementGroupID
from ray._private.state import state
from ray.core.generated import gcs_pb2
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup


def free_orphaned_room() -> int:
    """Give back the room of this job whose maker is dead; returns how many placement groups that were.

    The public table of placement groups does not say who made them, so the record behind it is read. What no actor made is the driver's own; its maker
    passes for dead, too.
    """
    nobody, job = ActorID.nil().binary(), ray.get_runtime_context().get_job_id()
    kind: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]
    freed = 0
    for row in state._connect_and_get_accessor().get_placement_group_table():
        group = kind.FromString(row)
        made_by_actor = group.creator_actor_id not in (b"", nobody)
        if (
            made_by_actor
            and group.creator_actor_dead
            and group.state != kind.REMOVED
            and group.creator_job_id.hex() == job
        ):
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
            freed += 1
    return freed
