"""The coordinator: the ladder as a Ray actor. Made by the driver, since an actor made inside a trial would die with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import ray
from ray.exceptions import RayTaskError

from raydistill.config.trial import TeacherReference
from raydistill.errors import RayDistillError
from raydistill.orchestration.decisions import decided_beside
from raydistill.orchestration.halts import Halts
from raydistill.orchestration.handovers import Handovers
from raydistill.orchestration.ladder import Entry, Ladder
from raydistill.orchestration.library import Library
from raydistill.orchestration.machines import beside_driver
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.records import Promotion, TrialKey, TrialRecord
from raydistill.planning.rules import Rules

WAIT_SECONDS = 1.0


class Coordinator:
    """One campaign's ladder behind messages. Its own death costs nothing: a new one rebuilds everything from the ledger.

    Methods are coroutines of one event loop. What changes the ladder's state waits for its turn, because a decision may take minutes: it copies and
    verifies files, in a thread. Everything else is answered meanwhile, above all who listens for the end, and who calls it.
    """

    def __init__(self, store: RunStore, rules: Rules, verify: Callable[[str], str] | None = None) -> None:
        # Runs elsewhere share nothing: looking into all of them would take a request for every event of each.
        sharing = verify is not None and store.remote is None
        self.ladder = Ladder(store, rules, Library(store.root, verify) if sharing and verify is not None else None)
        self.halts = Halts()
        self.handovers = Handovers()
        self._turn = asyncio.Lock()

    async def start(self, fingerprint: str, lineages: Sequence[str], grades: Sequence[str]) -> None:
        """See `Ladder.start`."""
        async with self._turn:
            self.ladder.start(fingerprint, lineages, grades)

    async def begin(self, key: TrialKey, identity: str, parameters: Mapping[str, Any]) -> Entry:
        """See `Ladder.begin`."""
        async with self._turn:
            return await decided_beside(self.ladder.beginning(key, identity, parameters))

    async def resume(self, key: TrialKey) -> Entry:
        """See `Ladder.resume`."""
        async with self._turn:
            return self.ladder.resume(key)

    async def report(
        self,
        key: TrialKey,
        epoch: int,
        metrics: Mapping[str, float],
        checkpoint: str | None,
        digest: str | None,
        finished: bool,
    ) -> bool:
        """See `Ladder.report`."""
        async with self._turn:
            decision = self.ladder.reporting(key, epoch, metrics, checkpoint, digest, finished)
            return await decided_beside(decision)

    async def teach(self, key: TrialKey, epoch: int) -> TeacherReference | None:
        """See `Teaching.teach`."""
        # Without a turn, since training waits for it: what it writes follows from the state at one moment, and no decision under way rests on it.
        return self.ladder.teach(key, epoch)

    async def pause(self, key: TrialKey) -> None:
        """See `Ladder.pause`."""
        async with self._turn:
            self.ladder.pause(key)

    async def note(self, key: TrialKey, text: str) -> None:
        """See `Ladder.note`."""
        async with self._turn:
            self.ladder.note(key, text)

    async def fail(self, key: TrialKey, reason: str) -> None:
        """See `Ladder.fail`."""
        async with self._turn:
            self.ladder.fail(key, reason)

    async def reject(self, key: TrialKey, digest: str, reason: str) -> None:
        """See `Ladder.reject`."""
        async with self._turn:
            self.ladder.reject(key, digest, reason)

    async def reject_teacher(self, key: TrialKey, reason: str) -> bool:
        """See `Teaching.reject_teacher`."""
        async with self._turn:
            return await decided_beside(self.ladder.rejecting_teacher(key, reason))

    async def teacher(self, lineage: str, grade: int) -> TeacherReference | None:
        """See `Teaching.teacher`."""
        return self.ladder.teacher(lineage, grade)

    async def earlier(self, lineage: str, grade: int) -> tuple[TeacherReference, ...]:
        """See `Teaching.earlier`."""
        return self.ladder.earlier(lineage, grade)

    async def winner(self, lineage: str, grade: int) -> TrialRecord:
        """See `Ladder.winner`."""
        return self.ladder.winner(lineage, grade)

    async def promote(self, lineage: str, grade: int) -> None:
        """See `Ladder.promote`."""
        async with self._turn:
            self.ladder.promote(lineage, grade)

    async def promote_given(self, lineage: str, teacher: TeacherReference) -> None:
        """Make a checkpoint that was trained elsewhere the teacher of a lineage."""
        async with self._turn:
            promotion = Promotion(lineage, 0, teacher.digest[:16], teacher.path, teacher.digest, 0, {})
            self.ladder.promote_given(promotion)

    async def record_test(self, lineage: str, grade: int, metrics: Mapping[str, float]) -> None:
        """See `Ladder.record_test`."""
        async with self._turn:
            self.ladder.record_test(lineage, grade, metrics)

    async def study(self, lineage: str, grade: int) -> list[TrialRecord]:
        """See `Ladder.study`."""
        return self.ladder.study(lineage, grade)

    async def due(self, lineage: str, grade: int) -> list[TrialRecord]:
        """See `Ladder.due`."""
        return self.ladder.due(lineage, grade)

    async def record(self, key: TrialKey) -> TrialRecord:
        """See `Ladder.record`."""
        return self.ladder.record(key)

    async def wait(self, key: TrialKey, seen: int) -> TrialRecord:
        """A trial as soon as it has more than `seen` reports or has ended; after a second as it is."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            record = self.ladder.record(key)
            if len(record.reports) > seen or record.status != "running":
                break
            await asyncio.sleep(0.05)
        return self.ladder.record(key)

    async def listen(self, key: TrialKey, works: bool = True) -> bool:
        """See `Halts.listen`."""
        return await self.halts.listen(key, works)

    async def rest(self, key: TrialKey) -> None:
        """See `Halts.rest`."""
        await self.halts.rest(key)

    async def enter(self, key: TrialKey) -> None:
        """Hear that workers turn to a trial: what those before them were told is over with them."""
        await self.handovers.begin(key)
        await self.halts.rest(key)

    async def leave(self, key: TrialKey) -> None:
        """See `Halts.leave`."""
        self.halts.leave(key)

    async def left(self, key: TrialKey) -> bool:
        """See `Halts.left`."""
        return self.halts.left(key)

    async def halt(self, key: TrialKey) -> None:
        """See `Halts.halt`."""
        await self.halts.halt(key)

    async def halt_all(self, seconds: float) -> int:
        """See `Halts.halt_all`."""
        return await self.halts.halt_all(seconds)

    async def hand_over(self, ended: TrialKey, key: TrialKey | None) -> bool:
        """See `Handovers.hand_over`."""
        if not await self.handovers.hand_over(ended, key):
            return False
        if key is not None and key != ended:
            await self.enter(key)
        return True

    async def take_up(self, ended: TrialKey) -> TrialKey | None:
        """See `Handovers.take_up`."""
        return await self.handovers.take_up(ended)

    async def goes_on(self, key: TrialKey) -> bool:
        """Whether a trial whose process ended is to be started again at once."""
        return self.ladder.record(key).status == "running" and not self.halts.all and self.ladder.broken is None

    async def abort(self, error: RayDistillError) -> None:
        """See `Ladder.abort`."""
        # Without a turn: a decision under way is not to be written any more.
        self.ladder.abort(error)

    async def news(self, after: int) -> list[dict[str, Any]]:
        """See `Ladder.news`."""
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
    options = {**beside_driver(), "max_restarts": -1, "max_task_retries": 3}
    return ray.remote(Coordinator).options(**options).remote(store, rules, verify)


def ask(reference: Any) -> Any:
    """The answer to a message; our own errors come out as they went in, not wrapped by Ray.

    Raises:
        RayDistillError: whatever the other side raised.
    """
    try:
        return ray.get(reference)
    except RayTaskError as problem:
        raise unwrapped(problem) from None


def unwrapped(problem: BaseException) -> BaseException:
    """The error of ours behind an error of Ray's, if there is one."""
    seen: BaseException | None = problem
    while seen is not None:
        if isinstance(seen, RayDistillError):
            # Ray raises a class derived from both its own and ours; only ours is for the reader.
            own = next(kind for kind in type(seen).__mro__ if kind.__module__ == "raydistill.errors")
            fields = {name: getattr(seen, name) for name in ("expected", "consequence", "remedy")}
            return cast(RayDistillError, own(seen.received, **fields)) if type(seen) is not own else seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return problem
