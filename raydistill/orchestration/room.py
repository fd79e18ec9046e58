"""The room that a trial takes on the cluster, and how it is given back when nobody else does.

Ray frees a placement group when the actor *and* the job that made it are gone. A trial's is made by the process of its search, its workers' by the
trial: when one of these is killed, what it started dies too, but the CPUs stay taken for as long as the campaign runs, and the next trial waits for ever.
"""

from __future__ import annotations

from pathlib import Path

from ray import PlacementGroupID
from ray.util import get_current_placement_group, remove_placement_group
from ray.util.placement_group import PlacementGroup

NOTE = ".room"


def note_room(directory: Path) -> None:
    """Write down, in the trial's directory, which room this process has."""
    room = get_current_placement_group()
    if room is not None:
        (directory / NOTE).write_text(room.id.hex())


def free_room(directory: Path) -> None:
    """Give back the room noted in a trial's directory, if there is one. Room that is free already stays free."""
    note = directory / NOTE
    if note.exists():
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(note.read_text())))
        note.unlink(missing_ok=True)
