"""Work that other runs beside this one have done: a trial whose whole configuration and teacher are equal is taken from there, not run again."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydistill.errors import CheckpointError, RayDistillError, StorageError
from raydistill.orchestration.durable import link_or_copy, put
from raydistill.orchestration.remote import MANIFEST, STREAMS
from raydistill.orchestration.rundir import CONFIG, read_state
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.searchdir import LADDERS
from raydistill.planning.records import TAKEN, TrialRecord

logger = logging.getLogger(__name__)
LOOK_SECONDS = 60.0
"""How long what lies in other runs is taken for what lay there."""


@dataclass(frozen=True)
class Loan:
    """A finished trial of another run, with its checkpoints in this one.

    Attributes:
        run: where it was trained.
        epochs: epochs it trained.
        reports: its reports; a checkpoint that is no longer there is None.
    """

    run: str
    epochs: int
    reports: tuple[dict[str, Any], ...]


def loan_events(head: Mapping[str, Any], loan: Loan | None) -> list[dict[str, Any]]:
    """The events of a trial that was taken over: those of one that was run, and a note that says where. None without a loan.

    Args:
        head: lineage, grade, number, identity, parameters and time of the trial.
        loan: what was taken.
    """
    if loan is None:
        return []
    place = {name: head[name] for name in ("lineage", "grade", "number")}
    reports = [
        {
            "kind": "trial_reported",
            **place,
            **report,
            "outcome": "finished" if report["epoch"] == loan.epochs else "running",
        }
        for report in loan.reports
    ]
    note = {"kind": "trial_noted", **place, "text": f"{TAKEN}{loan.run}", "time": head["time"]}
    return [{"kind": "trial_begun", **head, "epochs": loan.epochs}, note, *reports]


class Library:
    """The finished trials of all runs below the same storage, ladders of searches included.

    It is looked through when a trial is to begin: folders are named by the work they hold, so only runs that have it are read.

    Args:
        store: the run that borrows.
        verify: SHA-256 of a sound checkpoint's manifest.
    """

    def __init__(self, store: RunStore, verify: Callable[[str], str]) -> None:
        self.store, self.verify = store, verify
        self._shelves: list[tuple[RunStore, frozenset[str]]] = []
        self._look_again = 0.0

    def borrow(self, identity: str, directory: str) -> Loan | None:
        """Bring a trial's checkpoints into `directory`, from the run; None where nobody has done it, or nobody's best checkpoint is still what it was.

        On this machine bytes are shared by hard links where the file system has them, and copied where it has not; elsewhere they are copied there.
        """
        # Where one was found damaged, what is best now is not what was.
        for run, record in sorted(self._done(identity), key=lambda one: len(one[1].rejected)):
            written: list[str] = []
            try:
                if record.best is None or not self._is_sound(record.best["checkpoint"], record.best["digest"]):
                    continue
                reports = tuple(self._bring(run, one, directory, written) for one in record.reports)
                # That run may just have removed what was sound a moment ago.
                if any(one["digest"] == record.best["digest"] and one["checkpoint"] for one in reports):
                    return Loan(run.place, record.epochs, reports)
            except (OSError, shutil.Error, StorageError) as problem:
                # A run that goes on removes its older checkpoints.
                level = logging.INFO if isinstance(problem, FileNotFoundError) else logging.WARNING
                logger.log(level, "trial %s cannot be taken from %s: %s", identity, run.place, problem)
            self._remove(written)
        return None

    def _done(self, identity: str) -> list[tuple[RunStore, TrialRecord]]:
        """Who has finished a trial, and what they say of it."""
        self._look()
        found = []
        for other in [run for run, work in self._shelves if identity in work]:
            try:
                state = read_state(other)
            except RayDistillError as problem:
                logger.info("%s cannot be read, so nothing is taken from it: %s", other.place, problem.received)
                continue
            # A trial that was stopped early is not the whole work, and one whose teacher changed depends on the moment.
            found += [
                (other, record)
                for record in state.trials.values()
                if record.identity == identity and record.status == "finished" and not record.taught
            ]
        return found

    def _look(self) -> None:
        """See what work lies where; not for every trial of a search, because in a bucket each folder is a request."""
        now = time.monotonic()
        if now < self._look_again:
            return
        self._look_again = now + LOOK_SECONDS
        try:
            runs = runs_beside(self.store)
        except StorageError as problem:
            logger.info("the storage cannot be listed, so nothing new is taken from other runs: %s", problem.received)
            return
        # Side by side, because reports of trials wait for whoever begins one.
        with ThreadPoolExecutor(STREAMS) as pool:
            self._shelves = list(zip(runs, pool.map(_work_of, runs), strict=True))

    def _bring(self, run: RunStore, report: dict[str, Any], directory: str, written: list[str]) -> dict[str, Any]:
        brought = {name: report[name] for name in ("epoch", "metrics", "digest", "time")}
        source = report["checkpoint"]
        if not source:
            return {**brought, "checkpoint": None}
        inside = f"{directory}/checkpoints/{str(run.relative(source)).rpartition('/')[2]}"
        if not self._is_sound(source, report["digest"]):
            return {**brought, "checkpoint": None, "digest": None}
        target = self.store.located(inside)
        # Another run's may be there, from an attempt that was given up: equal work, but perhaps not equal to the last bit.
        if not self._is_sound(target, report["digest"]):
            written.append(inside)
            if self.store.remote is None:
                _link(Path(source), Path(target))
            else:
                self.store.remote.below(inside).remove()
                run.inside(source).copy(self.store.remote.below(inside))
                if self.store.read(f"{inside}/{MANIFEST}") is None:
                    return {**brought, "checkpoint": None, "digest": None}
        return {**brought, "checkpoint": target}

    def _remove(self, written: Sequence[str]) -> None:
        """Remove what was brought of a trial that could not be brought whole: whoever trains it here would go on from its last epoch, and never report its best.

        Raises:
            StorageError: it cannot be removed.
        """
        for inside in written:
            if self.store.remote is None:
                shutil.rmtree(self.store.located(inside), ignore_errors=True)
            else:
                self.store.remote.below(inside).remove()

    def _is_sound(self, checkpoint: str, digest: str) -> bool:
        try:
            return self.verify(checkpoint) == digest
        except CheckpointError:
            return False


def _work_of(run: RunStore) -> frozenset[str]:
    """The identities of the trials that a run has begun; none where it cannot be read, which is no reason to pass over the others."""
    return frozenset(
        identity for grade in _readable(run, "grades") for identity in _readable(run, f"grades/{grade}/trials")
    )


def _readable(run: RunStore, name: str) -> list[str]:
    try:
        return run.folders(name)
    except StorageError as problem:
        logger.info("%s cannot be read, so nothing is taken from it: %s", run.place, problem.received)
        return []


def _link(source: Path, target: Path) -> None:
    aside = target.with_name(f".aside-{target.name}")
    for one in (aside, target):
        shutil.rmtree(one, ignore_errors=True)
    shutil.copytree(source, aside, copy_function=link_or_copy)
    put(aside, target)


def runs_beside(store: RunStore) -> list[RunStore]:
    """The other runs below the storage of a run, by place: those that lie directly in it, and the ladders of searches in it.

    Raises:
        StorageError: the storage cannot be listed.
    """
    storage = store.above()
    search = storage.above()
    if storage.name == LADDERS and search.read(CONFIG) is not None:
        storage = search.above()
    found = [storage.below(name) for name in storage.folders("")]
    with ThreadPoolExecutor(STREAMS) as pool:
        inside = list(pool.map(lambda run: _readable(run, LADDERS), found))
    found += [run.below(f"{LADDERS}/{name}") for run, names in zip(found, inside, strict=True) for name in names]
    return sorted((one for one in found if one.place != store.place), key=lambda one: one.place)
