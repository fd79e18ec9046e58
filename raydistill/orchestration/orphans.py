"""Ends a process of a campaign soon after its cluster has lost the head.

Without its head a cluster is over, unless the head's state is kept elsewhere; but processes on other machines look for it for a minute (`RAY_gcs_rpc_server_reconnect_timeout_s=60` in
`cluster/`), because a network that is broken looks the same. Not so a head that refuses: its machine is there, and nobody listens on it any more.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time

import ray

from raydistill.orchestration.halting import HALT_SECONDS
from raydistill.orchestration.losses import Head

LOOK_SECONDS = 2.0
"""Between looks at the head: each is a connection, of every process of the cluster."""
REFUSED_SECONDS = 5.0
"""How long a head may refuse. With a look before and what saving may take, a process ends within 12 seconds."""
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
USUAL_SECONDS = 60.0
"""How long Ray looks for a head by default. Who sets more, as KubeRay does where the head's state is kept in Redis, awaits one that comes back."""


@functools.cache
def end_with_head() -> None:
    """Watch the head from now on, in a thread; once in a process, however often it is called."""
    if not _comes_back():
        head = Head(ray.get_runtime_context().gcs_address)
        threading.Thread(target=watch, args=(head,), name="orphan-watch", daemon=True).start()


def watch(head: Head) -> None:
    """Return never: when the head has refused for REFUSED_SECONDS, tell this process to save and end, and end it where it does not.

    A head that does not answer at all says nothing, neither that it is gone nor that it is there.
    """
    since: float | None = None
    while since is None or time.monotonic() - since < REFUSED_SECONDS:
        time.sleep(LOOK_SECONDS)
        if head.answers():
            since = None
        elif since is None and head.refused:
            since = time.monotonic()
    # Not a warning of a log: those of a trial are told to the coordinator, which may be gone with the head.
    sys.stderr.write(f"the head of the cluster, at {head.address}, is gone; process {os.getpid()} saves and ends\n")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(HALT_SECONDS)
    os._exit(128 + signal.SIGTERM)


def _comes_back() -> bool:
    try:
        return float(os.environ.get(RECONNECT, USUAL_SECONDS)) > USUAL_SECONDS
    except ValueError:
        return False
