"""What is known of one trial and of one promotion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

MRR = "valid/both/mrr"
LAYERS = "student/layers"
"""Reported where a student ends with another depth than its grade began with."""
BYTES = "student/bytes"
"""Of the stored weights of a report's checkpoint."""
Status = Literal["running", "paused", "finished", "stopped", "failed"]
ENDED_WELL = ("finished", "stopped")
"""How a trial has ended that has shown what it can."""
ENDED = (*ENDED_WELL, "failed")
Event = Mapping[str, Any]
TrialKey = tuple[str, int, int]
Place = tuple[str, int]
"""A grade of a lineage."""
TAKEN = "taken from "
"""How the note begins that says which run did a trial's work."""


@dataclass(frozen=True)
class Taught:
    """The checkpoint that teaches an epoch.

    Attributes:
        checkpoint: where it lies.
        digest: SHA-256 of its manifest.
        lost: whether it was found damaged since; the epoch is another teacher's if it is trained again.
    """

    checkpoint: str
    digest: str
    lost: bool = False


@dataclass
class TrialRecord:
    """One trial of a grade.

    Attributes:
        identity: names the work; equal identities are equal work.
        number: place among the trials of its grade, from 0.
        parameters: the searched values, by name.
        status: `running` also stands for a trial that a crash interrupted; `paused` for one that waits for its final teacher.
        epochs: epochs it was given.
        reports: one per completed epoch: epoch, metrics, checkpoint, digest, time, event.
        reason: why it failed.
        begun: seconds since 1970 when it began.
        resumed: how often it was taken up again after a crash.
        reused_from: the trial that did this work, when it was not done twice.
        taught: who taught an epoch, by the epoch's number from 0, where teachers change.
        notes: what it warned of.
        rejected: digests of checkpoints that were found damaged when they were to be promoted.
        freed: whether its checkpoints were removed to make room, when others were better; its numbers stay.
    """

    identity: str
    lineage: str
    grade: int
    number: int
    parameters: dict[str, Any]
    status: Status = "running"
    epochs: int = 0
    reports: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""
    begun: float = 0.0
    resumed: int = 0
    reused_from: TrialKey | None = None
    taught: dict[int, Taught] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rejected: set[str] = field(default_factory=set)
    freed: bool = False

    def copy(self) -> TrialRecord:
        """As it is now: what is told of the trial later does not reach it."""
        return replace(
            self,
            reports=list(self.reports),
            taught=dict(self.taught),
            notes=list(self.notes),
            rejected=set(self.rejected),
        )

    @property
    def key(self) -> TrialKey:
        """Where the record stands in a campaign."""
        return self.lineage, self.grade, self.number

    @property
    def taken(self) -> bool:
        """Whether another run did its work, or part of it."""
        return any(note.startswith(TAKEN) for note in self.notes)

    @property
    def last(self) -> dict[str, Any] | None:
        """The newest report."""
        return self.reports[-1] if self.reports else None

    @property
    def unreported(self) -> dict[int, Taught]:
        """Who teaches the epochs that are begun and not reported, by their number from 0; nobody where the trial has ended well."""
        if self.status in ENDED_WELL:
            return {}
        done = max((one["epoch"] for one in self.reports), default=0)
        return {epoch: one for epoch, one in sorted(self.taught.items()) if epoch >= done and not one.lost}

    @property
    def best(self) -> dict[str, Any] | None:
        """The report with the highest validation MRR whose checkpoint is there and was not rejected, the earliest among equals."""
        return self._highest("checkpoint")

    @property
    def shown(self) -> dict[str, Any] | None:
        """The report that its numbers are of: the best, or the one that was before its checkpoints were freed."""
        return self._highest("digest") if self.freed else self.best

    def _highest(self, known: str) -> dict[str, Any] | None:
        able = [
            one
            for one in self.reports
            if one[known] and one["digest"] not in self.rejected and math.isfinite(one["metrics"].get(MRR, math.nan))
        ]
        return max(able, key=lambda one: (one["metrics"][MRR], -one["epoch"])) if able else None

    @property
    def lost(self) -> bool:
        """Whether it ended well, and every checkpoint that could be promoted was rejected since."""
        return self.status in ENDED_WELL and bool(self.rejected) and self.shown is None

    @property
    def best_mrr(self) -> float | None:
        """Highest validation MRR so far."""
        return None if self.shown is None else float(self.shown["metrics"][MRR])

    @property
    def best_epoch(self) -> int | None:
        """The epoch of it."""
        return None if self.shown is None else int(self.shown["epoch"])

    @property
    def best_checkpoint(self) -> str | None:
        """The checkpoint of it; None where that was freed."""
        return None if self.best is None else str(self.best["checkpoint"])

    @property
    def best_digest(self) -> str | None:
        """SHA-256 of that checkpoint's manifest."""
        return None if self.best is None else str(self.best["digest"])


@dataclass(frozen=True)
class Promotion:
    """A checkpoint that became its grade's result and teaches the grades below; or, announced, teaches them until there is one."""

    lineage: str
    grade: int
    identity: str
    checkpoint: str
    digest: str
    epoch: int
    metrics: dict[str, float]
