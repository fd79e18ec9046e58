"""The room that a trial's workers take on the cluster, and how it is given back when nobody else does.

Ray frees a placement group when the actor *and* the job that made it are gone. The one of a trial's workers is made by Ray Train, inside the trial: when
the trial's process is killed, its workers die, but their CPUs stay taken for as long as the campaign runs.
"""

from __future__ import annotations

from pathlib import Path

from ray import PlacementGroupID
from ray.util import get_current_placement_group, remove_placement_group
from ray.util.placement_group import PlacementGroup

NOTE = ".room"


def note_room(directory: Path) -> None:
    """Write down, in the trial's directory, which room this worker's trial has."""
    room = get_current_placement_group()
    if room is not None:
        (directory / NOTE).write_text(room.id.hex())


def free_workers(directory: Path) -> None:
    """Give back the room noted in a trial's directory, if there is one. Room that is free already stays free."""
    note = directory / NOTE
    if note.exists():
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(note.read_text())))
        note.unlink(missing_ok=True)
