"""Making room: the checkpoints of trials that lost are removed (`storage.keep_trials`), before the next trial begins and when their grade has promoted.

The ledger says so first. A kill between the two leaves a folder that the ledger calls freed, which nobody reads any more, and the next look removes it;
the other way round it would leave a checkpoint that the ledger promises and that is gone.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from raydistill.errors import RayDistillError
from raydistill.flocks import is_held
from raydistill.orchestration.chronicle import Chronicle
from raydistill.orchestration.decisions import Decision, decided
from raydistill.orchestration.holding import NAME
from raydistill.orchestration.remote import STREAMS, RemoteFolder
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.study import trial_folder
from raydistill.orchestration.table import write_table
from raydistill.planning.freeing import freed, superfluous
from raydistill.planning.rules import Rules
from raydistill.planning.state import CampaignState

logger = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
ASIDE = ".freed-"
AGAIN_SECONDS = 30.0
"""Before a storage that has refused is asked again: whoever waits for a trial asks several times a second."""


class Clearing:
    """Frees the checkpoints of a campaign that nobody needs any more, and removes what is left of those that were freed before.

    Args:
        chronicle: the campaign.
        rules: what to decide by.
    """

    def __init__(self, chronicle: Chronicle, rules: Rules) -> None:
        self.chronicle, self.rules = chronicle, rules
        self._cleared: set[str] = set()
        self._left: set[str] = set()
        self._looked_at, self._again = -1, 0.0

    def clear(self) -> Decision[None]:
        """Do it, as a decision; where nothing has happened since the last time, nothing is looked for."""
        state = self.chronicle.state
        if state.events != self._looked_at:
            for record in superfluous(state, self.rules):
                self.chronicle.tell("trial_freed", record.key)
                # Its folder may have been cleared before another lineage did the work anew.
                self._cleared.difference_update(trial_folder(grade, record.identity) for grade in state.grades)
                # A hundred events take seconds in a bucket, and trials ask for their teachers meanwhile.
                yield _let_others_look
            self._looked_at = state.events
            self._left = {trial_folder(*place) for place in freed(state)} - self._cleared
        if self._left and time.monotonic() >= self._again:
            gone, refused = yield partial(_clear, self.chronicle.store, sorted(self._left))
            self._cleared.update(gone)
            self._left -= self._cleared
            self._again = time.monotonic() + AGAIN_SECONDS if refused else 0.0

    def leaves(self, grade: str, identity: str) -> bool:
        """Whether something may be left of freed work, by the folder of a grade and its identity: whoever does it anew would go on from that."""
        return trial_folder(grade, identity) in self._left


def free_at_rest(store: RunStore, rules: Rules) -> CampaignState:
    """The same for a campaign that is complete, by whoever holds the run; returns its state.

    Raises:
        LedgerError: the ledger cannot be read.
        StorageError: it cannot be written.
    """
    chronicle = Chronicle(store)
    before = chronicle.state.events
    decided(Clearing(chronicle, rules).clear())
    if chronicle.state.events > before:
        write_table(store, chronicle.state)
    return chronicle.state


def _let_others_look() -> None:
    """No files: between two events."""


def free_bytes(store: RunStore) -> int | None:
    """What is free where a run lies; None for a bucket, and where nobody says."""
    if store.remote is not None:
        return None
    try:
        return shutil.disk_usage(store.root).free
    except OSError:
        return None


def _clear(store: RunStore, folders: Sequence[str]) -> tuple[list[str], bool]:
    """Remove the checkpoints of trials; those in whose folders none is left, and whether the storage has refused one. The others are tried again later."""
    with ThreadPoolExecutor(STREAMS) as pool:
        found = list(pool.map(partial(_is_cleared, store), folders))
    return [folder for folder, done in zip(folders, found, strict=True) if done], None in found


def _is_cleared(store: RunStore, folder: str) -> bool | None:
    """None = the storage refuses."""
    try:
        # Of a run elsewhere: what this machine has not forgotten. Other machines have when they had sent it (see mirror.py).
        if (store.remote is None or store.identity) and not _clear_here(store.root / folder):
            return False
        if store.remote is not None:
            _clear_there(store.remote.below(f"{folder}/{CHECKPOINTS}"))
        return True
    except (OSError, RayDistillError) as problem:
        logger.warning("%s/%s: checkpoints that are needed no more stay for now: %s", store.place, folder, problem)
        return None


def _clear_there(checkpoints: RemoteFolder) -> None:
    names = checkpoints.folders()
    for name in names:
        checkpoints.below(name).remove()
    if names:
        checkpoints.remove()
        logger.info("%s was removed: it is needed no more", checkpoints.name)


def _clear_here(trial: Path) -> bool:
    checkpoints, aside = trial / CHECKPOINTS, trial / f"{ASIDE}{CHECKPOINTS}"
    if checkpoints.exists():
        # A process that still has its last words removes checkpoints itself, and would stumble.
        if is_held(trial / NAME):
            return False
        shutil.rmtree(aside, ignore_errors=True)
        # Out of sight in one step: whoever borrows from this run finds a checkpoint whole, or not at all.
        os.replace(checkpoints, aside)
    if aside.exists():
        shutil.rmtree(aside)
        logger.info("%s was removed: it is needed no more", checkpoints)
    return True
