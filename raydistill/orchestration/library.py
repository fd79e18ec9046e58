"""Work that other runs beside this one have done: a trial whose whole configuration and teacher are equal is taken from there, not run again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydistill.errors import CheckpointError, RayDistillError
from raydistill.orchestration.durable import link_or_copy, put
from raydistill.orchestration.rundir import CONFIG, read_state
from raydistill.orchestration.searchdir import LADDERS
from raydistill.planning.records import TAKEN, TrialRecord

logger = logging.getLogger(__name__)


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

    Args:
        root: the run that borrows.
        verify: SHA-256 of a sound checkpoint's manifest.
    """

    def __init__(self, root: Path, verify: Callable[[str], str]) -> None:
        self.root, self.verify = root, verify
        self.trials: dict[str, list[tuple[Path, TrialRecord]]] = {}
        for other in runs_beside(root):
            try:
                state = read_state(other)
            except RayDistillError as problem:
                logger.info("%s cannot be read, so nothing is taken from it: %s", other, problem.received)
                continue
            for record in state.trials.values():
                # A trial that was stopped early is not the whole work, and one whose teacher changed depends on the moment.
                if record.status == "finished" and not record.taught:
                    self.trials.setdefault(record.identity, []).append((other, record))

    def borrow(self, identity: str, directory: Path) -> Loan | None:
        """Bring a trial's checkpoints into `directory`; None where nobody has done it, or nobody's best checkpoint is still what it was.

        Bytes are shared by hard links where the file system has them, and copied where it has not.
        """
        # Where one was found damaged, what is best now is not what was.
        for run, record in sorted(self.trials.get(identity, []), key=lambda one: len(one[1].rejected)):
            if record.best is None or not self._is_sound(record.best["checkpoint"], record.best["digest"]):
                continue
            try:
                return Loan(str(run), record.epochs, tuple(self._bring(one, directory) for one in record.reports))
            except (OSError, shutil.Error) as problem:
                logger.warning("trial %s cannot be taken from %s: %s", identity, run, problem)
        return None

    def _bring(self, report: dict[str, Any], directory: Path) -> dict[str, Any]:
        brought = {name: report[name] for name in ("epoch", "metrics", "digest", "time")}
        if not report["checkpoint"]:
            return {**brought, "checkpoint": None}
        source = Path(report["checkpoint"])
        target = directory / "checkpoints" / source.name
        if not self._is_sound(source, report["digest"]):
            return {**brought, "checkpoint": None, "digest": None}
        # Another run's may be there, from an attempt that was given up: equal work, but perhaps not equal to the last bit.
        if not self._is_sound(target, report["digest"]):
            aside = target.with_name(f".aside-{target.name}")
            for one in (aside, target):
                shutil.rmtree(one, ignore_errors=True)
            shutil.copytree(source, aside, copy_function=link_or_copy)
            put(aside, target)
        return {**brought, "checkpoint": str(target)}

    def _is_sound(self, checkpoint: str | Path, digest: str) -> bool:
        try:
            return self.verify(str(checkpoint)) == digest
        except CheckpointError:
            return False


def runs_beside(root: Path) -> list[Path]:
    """The other local runs below the storage of a run, by path: those that lie directly in it, and the ladders of searches in it."""
    search = root.parent.parent
    storage = search.parent if root.parent.name == LADDERS and (search / CONFIG).exists() else root.parent
    found = {path.parent for pattern in (f"*/{CONFIG}", f"*/{LADDERS}/*/{CONFIG}") for path in storage.glob(pattern)}
    return sorted(found - {root})
