"""The coordinator: the ladder as a Ray actor. Made by the driver, since an actor made inside a trial would die with it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray

from raydistill.config.trial import TeacherReference
from raydistill.errors import RayDistillError, StorageError
from raydistill.orchestration.answering import OTHERS, THREADS, deciding, following
from raydistill.orchestration.decisions import decided
from raydistill.orchestration.ladder import Entry, Ladder
from raydistill.orchestration.library import Library
from raydistill.orchestration.machines import beside_driver
from raydistill.orchestration.messages import Messages
from raydistill.orchestration.patience import once
from raydistill.orchestration.premises import Premises
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.sealed import Sealed
from raydistill.planning.records import Promotion, TrialKey, TrialRecord
from raydistill.planning.rules import Rules

logger = logging.getLogger(__name__)
WAIT_SECONDS = 1.0
READ_SECONDS = 60.0
"""How long a coordinator that was started again tries to read the ledger."""
AGAIN_SECONDS = 2.0


class Coordinator(Messages):
    """One campaign's ladder behind messages. Its own death costs nothing: a new one rebuilds everything from the ledger.

    What changes the ladder's state waits for its turn, because a decision may take minutes: it copies, verifies and removes files. Everything else is answered meanwhile,
    above all who listens for the end, and who calls it.

    Args:
        store: where the run lies.
        rules: what to decide by.
        verify: as for `start_coordinator`; both may be sealed.
    """

    def __init__(self, store: RunStore | Sealed[Any], rules: Rules, verify: Any = None) -> None:
        super().__init__()
        # Under Ray one thread makes all decisions, and this is never waited for; elsewhere it is what keeps them apart.
        self._turn = threading.Lock()
        self._given: tuple[Any, ...] = store, rules, verify
        self._ladder: Ladder | None = None
        self._reading = threading.Lock()

    @property
    def ladder(self) -> Ladder:
        """The state of the campaign. One that was started again reads it when it is first asked, with patience: not its constructor, whose error would be its end for good.

        Raises:
            StorageError: the run cannot be read.
            LedgerError: the ledger is damaged.
        """
        return self._ladder or self._read(READ_SECONDS)

    def _read(self, patience: float) -> Ladder:
        deadline = time.monotonic() + patience
        with self._reading:
            while self._ladder is None:
                try:
                    with once() if patience else contextlib.nullcontext():
                        self._ladder = self._opened()
                except StorageError as problem:
                    if time.monotonic() > deadline:
                        raise
                    logger.warning("the run cannot be read, and is tried again: %s", problem.received)
                    time.sleep(AGAIN_SECONDS)
            return self._ladder

    def _opened(self) -> Ladder:
        store, rules, verify = (one.open() if isinstance(one, Sealed) else one for one in self._given)
        # Before the ledger is looked for, which is none where the driver's folder is not seen.
        Premises(store).require()
        return Ladder(store, rules, Library(store, verify) if verify is not None else None)

    @deciding
    def start(self, fingerprint: str, lineages: Sequence[str], grades: Sequence[str]) -> None:
        """Read the ledger, where an error reaches the driver as what it is, and see `Ladder.start`."""
        self._read(0.0)
        with self._turn:
            decided(self.ladder.starting(fingerprint, lineages, grades), self.shared.change)

    @deciding
    def begin(self, key: TrialKey, identity: str, parameters: Mapping[str, Any]) -> Entry:
        """See `Ladder.begin`."""
        with self._turn:
            return decided(self.ladder.beginning(key, identity, parameters), self.shared.change)

    @deciding
    def resume(self, key: TrialKey) -> Entry:
        """See `Ladder.resume`."""
        with self._turn, self.shared.change():
            return self.ladder.resume(key)

    @deciding
    def report(
        self,
        key: TrialKey,
        epoch: int,
        metrics: Mapping[str, float],
        checkpoint: str | None,
        digest: str | None,
        finished: bool,
    ) -> bool:
        """See `Ladder.report`."""
        with self._turn:
            decision = self.ladder.reporting(key, epoch, metrics, checkpoint, digest, finished)
            return decided(decision, self.shared.change)

    def teach(self, key: TrialKey, epoch: int) -> TeacherReference | None:
        """See `Teaching.teach`."""
        # Without a turn, since training waits for it: what it writes follows from the state at one moment, and no decision under way rests on it.
        with self.shared:
            return self.ladder.teach(key, epoch)

    @deciding
    def pause(self, key: TrialKey) -> None:
        """See `Ladder.pause`."""
        with self._turn, self.shared.change():
            self.ladder.pause(key)

    @deciding
    def note(self, key: TrialKey, text: str) -> None:
        """See `Ladder.note`."""
        with self._turn, self.shared.change():
            self.ladder.note(key, text)

    @deciding
    def fail(self, key: TrialKey, reason: str) -> None:
        """See `Ladder.fail`."""
        with self._turn, self.shared.change():
            self.ladder.fail(key, reason)

    @deciding
    def reject(self, key: TrialKey, digest: str, reason: str) -> None:
        """See `Ladder.reject`."""
        with self._turn, self.shared.change():
            self.ladder.reject(key, digest, reason)

    @deciding
    def reject_teacher(self, key: TrialKey, reason: str) -> bool:
        """See `Teaching.reject_teacher`."""
        with self._turn:
            return decided(self.ladder.rejecting_teacher(key, reason), self.shared.change)

    def teacher(self, lineage: str, grade: int) -> TeacherReference | None:
        """See `Teaching.teacher`."""
        with self.shared:
            return self.ladder.teacher(lineage, grade)

    def earlier(self, lineage: str, grade: int) -> tuple[TeacherReference, ...]:
        """See `Teaching.earlier`."""
        with self.shared:
            return self.ladder.earlier(lineage, grade)

    def winner(self, lineage: str, grade: int) -> TrialRecord:
        """See `Ladder.winner`."""
        with self.shared:
            return self.ladder.winner(lineage, grade).copy()

    @deciding
    def promote(self, lineage: str, grade: int) -> None:
        """See `Ladder.promote`."""
        with self._turn:
            decided(self.ladder.promoting(lineage, grade), self.shared.change)

    @deciding
    def promote_given(self, lineage: str, teacher: TeacherReference) -> None:
        """Make a checkpoint that was trained elsewhere the teacher of a lineage."""
        with self._turn, self.shared.change():
            promotion = Promotion(lineage, 0, teacher.digest[:16], teacher.path, teacher.digest, 0, {})
            self.ladder.promote_given(promotion)

    @deciding
    def record_test(self, lineage: str, grade: int, metrics: Mapping[str, float]) -> None:
        """See `Ladder.record_test`."""
        with self._turn:
            decided(self.ladder.recording_test(lineage, grade, metrics), self.shared.change)

    def study(self, lineage: str, grade: int) -> list[TrialRecord]:
        """See `Ladder.study`."""
        with self.shared:
            return [one.copy() for one in self.ladder.study(lineage, grade)]

    def due(self, lineage: str, grade: int) -> list[TrialRecord]:
        """See `Ladder.due`."""
        with self.shared:
            return [one.copy() for one in self.ladder.due(lineage, grade)]

    def record(self, key: TrialKey) -> TrialRecord:
        """See `Ladder.record`."""
        # A copy, as all that is answered: it is sent when others may change the record already.
        with self.shared:
            return self.ladder.record(key).copy()

    @following
    def wait(self, key: TrialKey, seen: int) -> TrialRecord:
        """A trial as soon as it has more than `seen` reports or has ended; after a second as it is."""
        with self.shared:
            self.shared.until(lambda: self._moved(key, seen), WAIT_SECONDS)
            return self.ladder.record(key).copy()

    def _moved(self, key: TrialKey, seen: int) -> bool:
        record = self.ladder.record(key)
        return len(record.reports) > seen or record.status != "running"

    def goes_on(self, key: TrialKey) -> bool:
        """Whether a trial whose process ended is to be started again at once."""
        with self.shared:
            return self.ladder.record(key).status == "running" and not self.halts.all and self.ladder.broken is None

    def abort(self, error: RayDistillError) -> None:
        """See `Ladder.abort`."""
        # Without a turn: a decision under way is not to be written any more.
        with self.shared.change():
            self.ladder.abort(error)

    def news(self, after: int) -> list[dict[str, Any]]:
        """See `Ladder.news`."""
        with self.shared:
            return self.ladder.news(after)


def start_coordinator(store: RunStore, rules: Rules, verify: Callable[[str], str] | None = None) -> Any:
    """Make the actor. It restarts by itself for as long as the driver lives, on the driver's machine; it asks for no CPU.

    Args:
        store: where the run lies.
        rules: what to decide by.
        verify: SHA-256 of a sound checkpoint's manifest, where trials of other runs beside this one may be taken over.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    # Read once here: an exception inside an actor's constructor would reach the driver as the actor's death.
    Ladder(store, rules)
    # Ray's types do not know groups of threads, and `options` does not take them.
    remote: Any = ray.remote(max_concurrency=OTHERS, concurrency_groups=THREADS)  # type: ignore[call-overload]
    options = {**beside_driver(), "max_restarts": -1, "max_task_retries": 3}
    return remote(Coordinator).options(**options).remote(Sealed(store), rules, verify and Sealed(verify))
