"""Which checkpoint a trial goes on from: the newest sound one that all its workers see."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from raydistill.errors import CheckpointError
from raydistill.training.checkpoint import clean_aside, load_training_state, newest_good
from raydistill.training.gather import World
from raydistill.training.manifest import verify_checkpoint

logger = logging.getLogger(__name__)
SEEN_SECONDS = 90.0
"""How long what one machine has written may be hidden from another one: NFS looks again after a minute."""
LOOK_SECONDS = 1.0
DAMAGED = "damaged"


def agreed_newest(directory: Path, world: World) -> Path | None:
    """The checkpoint to go on from, the same for all workers; None where there is none that all of them see.

    The first worker chooses. If each looked by itself, one that does not see yet what another machine has just written would go on from other weights, and at
    another step, than the rest.

    Args:
        directory: the trial's checkpoints.
        world: its workers, all of which call.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged; on all workers.
    """
    if world.rank == 0 and directory.exists():
        clean_aside(directory)
    if world.size == 1:
        return newest_good(directory)
    before = None
    while name := _chosen(directory, world, before):
        path = directory / name
        if not world.anyone(world.rank > 0 and not _is_seen(path)):
            return path
        logger.warning("not all workers see %s: they go on from what all see, or from the beginning", path)
        before = name
    return None


def epoch_of(path: Path | None) -> int:
    """Completed epochs of a checkpoint; 0 without one."""
    return 0 if path is None else int(load_training_state(path).position["epoch"])


def _chosen(directory: Path, world: World, before: str | None) -> str:
    """The name of the first worker's choice; nothing where it has none."""
    name = DAMAGED
    try:
        if world.rank == 0:
            found = newest_good(directory, before)
            name = found.name if found is not None else ""
    finally:
        # Whatever became of it: the others wait for its word.
        name = world.agree(name)
    if name == DAMAGED:
        raise CheckpointError(
            f"the first worker finds no sound checkpoint among those below {directory}",
            expected="at least one",
            consequence="training would start afresh and hours of work would be lost unnoticed",
            remedy=f"restore one from a backup, or delete {directory} to start this trial afresh",
        )
    return name


def _is_seen(path: Path) -> bool:
    """Whether this worker sees a sound checkpoint there, now or soon."""
    deadline = time.monotonic() + SEEN_SECONDS
    while True:
        try:
            verify_checkpoint(path)
        except CheckpointError:
            if time.monotonic() > deadline:
                return False
        else:
            return True
        time.sleep(LOOK_SECONDS)
