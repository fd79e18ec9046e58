"""One driver per run on file systems that know no locks: a small file that its holder renews, and that others take when it has stayed the same for too long.

    RUN/.lease.json    {"holder": "process 7 on host", "machine": "...", "pid": 7, "began": 1.0, "ticks": 100, "token": "...", "seconds": 30.0, "until": 1.7e9,
                        "taking": false}

1. Clocks of machines need not agree: whoever wants a run that another machine's process held watches the file by a clock of his own, for as long as the
   lease says that it holds, and as what its holder started may live on without it (ORPHAN_SECONDS), however old it looks: a holder whose clock is behind looks
   just so. `until` is for people, and for a first look.
2. A holder that died on this machine is seen to be dead, and need not be waited for; one that let go has left `{}`.
3. A holder that cannot renew because the storage does not answer goes on: nobody else can take what does not answer either. When it answers again, the file
   says whether it was taken. One that took longer than TAKING_SECONDS between looking and writing cannot know, and gives the run up.
4. Whoever takes a run looks and writes without patience, and settles for as long as others may take for the same. A write that failed, and may yet arrive, or that
   took longer, may have gone over the lease of a holder that came in between: whoever wrote it watches it like another's. It says `taking`, and a holder whose own
   lease has not run out writes over it: nobody can have waited for that to end.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial

from raydistill.errors import RunDirectoryError, StorageError
from raydistill.orchestration.patience import explained, leaving, once, patiently
from raydistill.orchestration.processes import this_process
from raydistill.orchestration.remote import RemoteFolder
from raydistill.orchestration.watching import LEASE_SECONDS, NAME, RENEW_SECONDS, await_end, in_use, read

logger = logging.getLogger(__name__)
SETTLE_SECONDS = 2.0
"""After writing, another one that looked before may still write over it; by then it has, or knows that it was late. Both take six requests, to a bucket of another continent a second."""
TAKING_SECONDS = 5.0
"""The same where the holder before has only fallen silent: it may have looked before this one wrote, and write late. A holder that took longer than this has lost its lease."""
LOOKS = 3
"""How often a lease that has run out is looked at before it is renewed, while looking takes long; and how often one that is taken is written too late."""
ANSWER_SECONDS = 2.0
"""How long whoever asks waits for the thread that renews, where the lease has run out: a storage that answers has done so by then."""


class Lease:
    """The right to write a run elsewhere.

    Args:
        remote: the run.
        seconds: how long it holds without being renewed.
    """

    def __init__(self, remote: RemoteFolder, seconds: float = LEASE_SECONDS) -> None:
        self.remote, self.seconds = remote, seconds
        self.token = uuid.uuid4().hex
        self.until = self.deadline = 0.0
        self.lost: RunDirectoryError | None = None
        self._silent = self._uncertain = False
        self._over, self._asked, self._answered = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def take(self, heed: Callable[[], None] = lambda: None) -> None:
        """Become the holder, and renew from now on.

        Args:
            heed: called again and again while another one's is watched; raises where that is to end.

        Raises:
            RunDirectoryError: another process is.
            StorageError: the run cannot be written, or not fast enough to know who holds it.
        """
        with explained(f"{self.remote.name}: {NAME} cannot be written"):
            settles = next(filter(None, (patiently(partial(self._bid, heed)) for _ in range(LOOKS))), None)
        if settles is None:
            raise self._too_slow()
        time.sleep(settles)
        lease = read(self.remote)
        if lease.get("token") != self.token:
            raise in_use(self.remote, lease)
        self._thread.start()

    def check(self) -> None:
        """Make sure that nobody has taken the run from this process; where the storage does not answer, nobody has.

        Raises:
            RunDirectoryError: somebody has.
        """
        if self.lost is None and self._is_late():
            # By the thread: this one may be told to end, and a call into a storage that does not answer cannot be interrupted.
            self._answered.clear()
            self._asked.set()
            self._answered.wait(ANSWER_SECONDS)
        if self.lost is not None:
            raise self.lost

    def release(self) -> None:
        """Let others take it at once."""
        self._over.set()
        self._asked.set()
        if self._thread.ident is not None:
            self._thread.join(RENEW_SECONDS)
        try:
            with leaving():
                if self.lost is None and read(self.remote).get("token") == self.token:
                    self.remote.write(NAME, b"{}\n")
        except StorageError as problem:
            logger.warning("%s; it runs out by itself", problem.received)

    def _bid(self, heed: Callable[[], None]) -> float | None:
        """Write a lease where nobody holds one, without patience.

        Returns:
            How long it takes to settle; None where it came too late, and may have gone over that of a holder.
        """
        seen, fell_silent = await_end(self.remote, self.token, heed)
        settles = TAKING_SECONDS if fell_silent else SETTLE_SECONDS
        began = _now()
        try:
            with once():
                # Seconds may have passed since, if the storage was slow to answer.
                if (self.remote.read(NAME) or b"") != seen:
                    return None
                self._write(taking=True)
        except StorageError as problem:
            if not isinstance(problem.__cause__, OSError):
                raise
            # For `patiently`, which knows what passes.
            raise problem.__cause__ from None
        return settles if _passed(began) <= settles else None

    def _keep(self) -> None:
        while self.lost is None:
            self._asked.wait(min(RENEW_SECONDS, self.seconds / 4))
            self._asked.clear()
            if self._over.is_set():
                return
            try:
                self._renew()
            except RunDirectoryError as problem:
                self.lost = problem
            except StorageError as problem:
                if not self._silent:
                    logger.warning(
                        "%s; this driver goes on, unless another one has taken the run meanwhile", problem.received
                    )
                self._silent = True
            else:
                self._silent = False
            self._answered.set()

    def _renew(self) -> None:
        # Once, because it comes back in seconds, and each time has to look before it writes.
        with once():
            for _ in range(LOOKS):
                began = _now()
                lease = read(self.remote)
                # Over a lease that holds nobody writes but one who looked before it was there, and he watches what he wrote.
                late_bid = lease.get("taking") and not self._is_late() and not self._uncertain
                if lease.get("token") != self.token and not late_bid:
                    raise self._taken(lease.get("holder", "another driver, which has let it go since"))
                # An outage ends while somebody waits for an answer, which is then an old one.
                if not self._is_late() or _passed(began) < SETTLE_SECONDS:
                    break
            was_late = self._write()
            # Whoever has watched it to its end meanwhile may have looked before this, and be about to write: until the next look is undisturbed he comes first.
            self._uncertain = was_late
        if was_late and _passed(began) > TAKING_SECONDS:
            raise self._taken("another driver, perhaps: renewing the lease took longer than taking it does")

    def _is_late(self) -> bool:
        # By either clock: one of them may have been set back, and the other one stands still while a laptop is shut. The thread that renews sleeps with it,
        # and may wake later than the one that asks.
        return time.time() > self.until or time.monotonic() > self.deadline

    def _write(self, *, taking: bool = False) -> bool:
        """Renew it; whether it had run out by then."""
        # Both before the write, which may take long.
        until, deadline = time.time() + self.seconds, time.monotonic() + self.seconds
        process = this_process()
        holder = f"process {process['pid']} on {os.uname().nodename}"
        mine = {"token": self.token, "seconds": self.seconds, "until": until, "taking": taking}
        content = {**mine, "holder": holder, **process}
        self.remote.write(NAME, (json.dumps(content, sort_keys=True) + "\n").encode())
        was_late = self._is_late()
        self.until, self.deadline = until, deadline
        return was_late

    def _taken(self, holder: str) -> RunDirectoryError:
        return RunDirectoryError(
            f"{self.remote.name} was taken by {holder}",
            expected=f"a lease that is renewed every {RENEW_SECONDS:g} seconds: by a machine that does not sleep, on a file system that answers",
            consequence="two drivers would write one ledger",
            remedy="leave it to the other one; or run again with --resume when that has ended",
        )

    def _too_slow(self) -> StorageError:
        return StorageError(
            f"{self.remote.name}: {NAME} was written {LOOKS} times, and each took longer than {TAKING_SECONDS:g} s",
            expected="a file system that answers within parts of a second",
            consequence="another driver could have taken the run meanwhile, and neither would know",
            remedy="run again with --resume when it is faster, or choose another --run-dir",
        )


def _now() -> tuple[float, float]:
    return time.time(), time.monotonic()


def _passed(since: tuple[float, float]) -> float:
    """Seconds by the clock by which it was more."""
    return max(now - then for now, then in zip(_now(), since, strict=True))
