"""Which checkpoint a trial goes on from: the newest sound one that all its workers see."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from raydistill.errors import CheckpointError, StorageError
from raydistill.training.checkpoint import clean_aside, load_training_state, newest_good
from raydistill.training.gather import World
from raydistill.training.manifest import verify_checkpoint

logger = logging.getLogger(__name__)
SEEN_SECONDS = 90.0
"""How long what one machine has written may be hidden from another one: NFS looks again after a minute."""
LOOK_SECONDS = 1.0
DAMAGED, UNSEEN, FAILED = "damaged", "unseen", "failed"


def agreed_newest(directory: Path, world: World) -> Path | None:
    """The checkpoint to go on from, the same for all workers; None where there never was one.

    The first worker chooses. If each looked by itself, one that does not see yet what another machine has just written would go on from other weights, and at
    another step, than the rest.

    Args:
        directory: the trial's checkpoints.
        world: its workers, all of which call.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged; on all workers.
        StorageError: there are sound ones, and none that all workers see; on all workers.
    """
    if world.size == 1:
        if world.rank == 0 and directory.exists():
            clean_aside(directory)
        return newest_good(directory)
    before = None
    while name := _chosen(directory, world, before):
        path = directory / name
        if not world.anyone(world.rank > 0 and not _is_seen(path)):
            return path
        logger.warning("not all workers see %s: they go on from an older one that all see", path)
        before = name
    return None


def epoch_of(path: Path | None) -> int:
    """Completed epochs of a checkpoint; 0 without one."""
    return 0 if path is None else int(load_training_state(path).position["epoch"])


def _chosen(directory: Path, world: World, before: str | None) -> str:
    """The name of the first worker's choice; nothing where there never was a checkpoint."""
    word = FAILED
    try:
        if world.rank == 0:
            word = _choice(directory, before)
    finally:
        # Whatever became of it: the others wait for its word.
        word = world.agree(word)
    if word == FAILED:
        # Of the first worker's error this is the echo.
        raise RuntimeError("the first worker has failed to choose a checkpoint")
    if word == UNSEEN:
        raise StorageError(
            f"no sound checkpoint below {directory} is seen by all workers",
            expected="one file system, which shows all machines the same",
            consequence="training would start afresh and hours of work would be lost unnoticed",
            remedy="see that it is mounted on every machine, then run again with --resume; or delete that folder to start this trial afresh",
        )
    if word == DAMAGED:
        raise CheckpointError(
            f"the first worker finds no sound checkpoint among those below {directory}",
            expected="at least one",
            consequence="training would start afresh and hours of work would be lost unnoticed",
            remedy=f"restore one from a backup, or delete {directory} to start this trial afresh",
        )
    return word


def _choice(directory: Path, before: str | None) -> str:
    """Of the first worker, or the word for why it has none."""
    if before is None and directory.exists():
        clean_aside(directory)
    try:
        found = newest_good(directory, before)
    except CheckpointError as problem:
        logger.warning("%s", problem.received)
        return DAMAGED if before is None else UNSEEN
    if found is not None:
        return found.name
    return "" if before is None else UNSEEN


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
