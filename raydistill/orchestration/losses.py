"""What a campaign cannot go on without: its cluster's head, and processes that must not die again and again. What is said when it is lost.

While the head is gone, every question to it waits, and after a minute Ray ends the process, without an exit code of ours and without a word on how to
go on. So somebody looks whether it is there.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import ray
from ray.exceptions import RayError

from raydistill.errors import ClusterError, RayDistillError, TrialError
from raydistill.orchestration.asking import unwrapped
from raydistill.orchestration.logs import SEARCH_LOG, TRIAL_LOG
from raydistill.orchestration.runstore import RunStore

LOST_SECONDS = 30.0
"""How long a head may be gone. One whose state is kept elsewhere comes back in less."""
LEAVE_SECONDS = 10.0
"""How long the driver may take to leave then. Together less than what Ray leaves it."""
LOOK_SECONDS = 1.0
CONNECT_SECONDS = 3.0
GAP_SECONDS = 6.0
"""Most that lies between two looks, a connection that is not answered included; longer ones are those of a process that stood still."""


class Head:
    """Whether the head of the cluster is there.

    Args:
        address: HOST:PORT of its control service.

    Attributes:
        refused: whether the last look found its machine, and nobody who listens there.
        lost: the error of one that was given up.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.refused = False
        self.lost: ClusterError | None = None
        self._seen = time.monotonic()
        self._silent, self._failed_at = 0.0, math.inf
        self._over = threading.Event()

    def answers(self) -> bool:
        """Whether somebody listens there, now."""
        host, _, port = self.address.rpartition(":")
        began = time.monotonic()
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as problem:
            self.refused = isinstance(problem, ConnectionRefusedError)
            now = time.monotonic()
            self._silent += min(now - min(began, self._failed_at), GAP_SECONDS)
            self._failed_at = now
            return False
        self.refused, self._silent, self._failed_at = False, 0.0, math.inf
        self._seen = time.monotonic()
        return True

    def silent(self) -> float:
        """Seconds of looks in a row to which it has not answered; those in which this process stood still are not counted, because it saw nothing."""
        return self._silent

    def check(self) -> bool:
        """Whether the head can be asked something.

        Raises:
            ClusterError: it has been gone for too long.
        """
        if self.answers():
            return True
        if time.monotonic() - self._seen > LOST_SECONDS:
            self.require()
        return False

    def require(self) -> None:
        """Give up a head that does not answer at this moment.

        Raises:
            ClusterError: it does not.
        """
        if not self.answers():
            self.lost = head_lost(self.address)
            raise self.lost

    def watch(self) -> None:
        """End this process where it waits for a head that is gone, in a call that cannot be interrupted."""
        while not self._over.wait(LOOK_SECONDS):
            gone = not self.answers() and time.monotonic() - self._seen
            if gone > LOST_SECONDS + LEAVE_SECONDS or (self.lost and gone > LEAVE_SECONDS):
                problem = self.lost or head_lost(self.address)
                sys.stderr.write(f"error: {RayDistillError.__str__(problem)}\n")
                sys.stderr.flush()
                os._exit(problem.exit_code)

    def forget(self) -> None:
        """End the watch."""
        self._over.set()


@contextlib.contextmanager
def head_watched() -> Iterator[Head]:
    """The head of the cluster this process is connected to, watched for as long as the campaign runs."""
    head = Head(ray.get_runtime_context().gcs_address)
    threading.Thread(target=head.watch, name="head-watch", daemon=True).start()
    try:
        yield head
    finally:
        # One that is lost is watched to the end of the process: taking leave of the cluster may wait for it too.
        if head.lost is None:
            head.forget()


def head_lost(address: str) -> ClusterError:
    """The error of a cluster without a head."""
    return ClusterError(
        f"the head of the Ray cluster, at {address}, does not answer any more",
        expected="a head that outlives the campaign",
        consequence="no process could be started or heard; everything recorded so far is kept",
        remedy="start the cluster again, then run the same command (a campaign with --resume)",
    )


def given_up(store: RunStore, what: str, problem: RayError) -> TrialError:
    """The error of a process that the campaign cannot do without and that died too often."""
    said = unwrapped(problem)
    cause = (str(said).strip() or type(said).__name__).splitlines()[-1]
    return TrialError(
        f"{what}: {cause}",
        expected="processes that end by themselves",
        consequence="the campaign ends here; everything recorded so far is kept",
        remedy=f"see {SEARCH_LOG} and {TRIAL_LOG} below {store.located('grades')}, and whether the machine runs out of memory; "
        "then run again with --resume",
    )
