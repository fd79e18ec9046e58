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
from raydistill.planning.records import TrialRecord

logger = logging.getLogger(__name__)
TAKEN = "taken from "


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
    """The finished trials of all runs beside one.

    Args:
        root: the run that borrows.
        verify: SHA-256 of a sound checkpoint's manifest.
    """

    def __init__(self, root: Path, verify: Callable[[str], str]) -> None:
        self.root, self.verify = root, verify
        self.trials: dict[str, tuple[Path, TrialRecord]] = {}
        for other in sorted(path.parent for path in root.parent.glob(f"*/{CONFIG}") if path.parent != root):
            try:
                state = read_state(other)
            except RayDistillError as problem:
                logger.info("%s cannot be read, so nothing is taken from it: %s", other, problem.received)
                continue
            for record in state.trials.values():
                # A trial that was stopped early is not the whole work, and one whose teacher changed depends on the moment.
                if record.status == "finished" and not record.taught:
                    self.trials.setdefault(record.identity, (other, record))

    def borrow(self, identity: str, directory: Path) -> Loan | None:
        """Bring a trial's checkpoints into `directory`; None where nobody has done it, or its best checkpoint is not what it was.

        Bytes are shared by hard links where the file system has them, and copied where it has not.
        """
        run, record = self.trials.get(identity, (None, None))
        if run is None or record is None or record.best is None:
            return None
        try:
            reports = tuple(self._bring(report, directory) for report in record.reports)
        except (OSError, shutil.Error) as problem:
            logger.warning("trial %s cannot be taken from %s: %s", identity, run, problem)
            return None
        best = record.best["epoch"]
        if not any(report["checkpoint"] for report in reports if report["epoch"] == best):
            return None
        return Loan(str(run), record.epochs, reports)

    def _bring(self, report: dict[str, Any], directory: Path) -> dict[str, Any]:
        brought = {name: report[name] for name in ("epoch", "metrics", "digest", "time")}
        if not report["checkpoint"]:
            return {**brought, "checkpoint": None}
        source = Path(report["checkpoint"])
        target = directory / "checkpoints" / source.name
        try:
            sound = self.verify(str(source)) == report["digest"]
        except CheckpointError:
            sound = False
        if not sound:
            return {**brought, "checkpoint": None, "digest": None}
        if not target.exists():
            aside = target.with_name(f".aside-{target.name}")
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(source, aside, copy_function=link_or_copy)
            put(aside, target)
        return {**brought, "checkpoint": str(target)}
