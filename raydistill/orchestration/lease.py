"""One driver per run on file systems that know no locks: a small file that its holder renews, and that runs out when the holder is gone.

    RUN/.lease.json    {"holder": "process 7 on host", "machine": "...", "pid": 7, "began": 1.0, "ticks": 100, "token": "...", "until": 1700000000.0}

Times are of the holders' clocks, which have to agree to a few seconds. A holder that died on this machine is seen to be dead, and need not be waited for.
One that slept for longer than its lease has lost it, even where nobody has taken it: another one may have come and gone.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

from raydistill.errors import RunDirectoryError, StorageError
from raydistill.orchestration.processes import is_of_this_machine, running, this_process
from raydistill.orchestration.remote import RemoteFolder

logger = logging.getLogger(__name__)
NAME = ".lease.json"
LEASE_SECONDS = 30.0
RENEW_SECONDS = 5.0
SETTLE_SECONDS = 1.0
"""After writing, another one that looked before may still write over it; by then it has."""


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
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def take(self) -> None:
        """Become the holder, and renew from now on.

        Raises:
            RunDirectoryError: another process is.
            StorageError: the run cannot be written.
        """
        self._refuse_others()
        self._write()
        time.sleep(SETTLE_SECONDS)
        self._refuse_others()
        self._thread.start()

    def check(self) -> None:
        """Make sure that this process still holds the run.

        Raises:
            RunDirectoryError: it does not.
        """
        # By either clock: the one that others go by may have been set back, and the other one stands still while a laptop is shut. The thread that
        # renews sleeps with it, and may wake later than the one that asks.
        if self.lost is None and (time.time() > self.until or time.monotonic() > self.deadline):
            self.lost = RunDirectoryError(
                f"{self.remote.name}: the lease has not been renewed for {self.seconds:g} seconds",
                expected="a file system that answers, and a machine that does not sleep",
                consequence="another driver may have taken the run, and two would write one ledger",
                remedy="run again with --resume",
            )
        if self.lost is not None:
            raise self.lost

    def release(self) -> None:
        """Let others take it at once."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        try:
            if self.lost is None and _token(read(self.remote)) == self.token:
                self.remote.write(NAME, b"{}\n")
        except StorageError as problem:
            logger.warning("%s; it runs out by itself", problem.received)

    def _keep(self) -> None:
        while not self._over.wait(min(RENEW_SECONDS, self.seconds / 4)):
            try:
                self.check()
                self._refuse_others()
                self._write()
            except RunDirectoryError as problem:
                self.lost = problem
                return
            except StorageError as problem:
                logger.warning("%s", problem.received)

    def _write(self) -> None:
        # Both before the write, which may take long.
        until, deadline = time.time() + self.seconds, time.monotonic() + self.seconds
        process = this_process()
        holder = f"process {process['pid']} on {os.uname().nodename}"
        content = {"token": self.token, "until": until, "holder": holder, **process}
        self.remote.write(NAME, (json.dumps(content, sort_keys=True) + "\n").encode())
        self.until, self.deadline = until, deadline

    def _refuse_others(self) -> None:
        lease = read(self.remote)
        if not is_valid(lease) or _token(lease) == self.token:
            return
        until = float(lease["until"])
        raise RunDirectoryError(
            f"{self.remote.name} is in use by {lease.get('holder', 'another process')}, whose lease runs out at "
            f"{time.strftime('%H:%M:%S', time.localtime(until))}, in {max(0.0, until - time.time()):.0f} s, unless it is renewed",
            expected="one driver per run",
            consequence="two campaigns would write one ledger",
            remedy="wait for it, stop it, or choose another --run-dir; if it was killed, wait until the lease has run out",
        )


def read(remote: RemoteFolder) -> dict[str, Any]:
    """The lease as it lies there; empty where there is none, or nothing that can be read."""
    content = remote.read(NAME)
    try:
        lease = json.loads(content or b"{}")
    except ValueError:
        return {}
    return lease if isinstance(lease, dict) and isinstance(lease.get("until"), float) else {}


def is_valid(lease: Mapping[str, Any]) -> bool:
    """Whether somebody holds the run by this lease."""
    if not lease or lease["until"] < time.time():
        return False
    return not is_of_this_machine(lease) or running(lease) is not None


def _token(lease: Mapping[str, Any]) -> Any:
    return lease.get("token")
