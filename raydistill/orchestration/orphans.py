"""Ends a process of a campaign soon after its cluster has lost the head.

Without its head a cluster is over, unless the head's state is kept elsewhere; but Ray's processes on other machines look for it for a minute (`RAY_gcs_rpc_server_reconnect_timeout_s=60` in
`cluster/`) where it refuses, and for longer where it says nothing, because a network that is broken looks the same (four minutes were seen, of Ray 2.60). A head that says nothing is waited for
as long as the driver waits for it, which ends the campaign then. Not so a head that refuses: its machine is there, and nobody listens on it. What only stands in front of a head may refuse,
too (a Kubernetes service of a pod that is not ready), so Ray, which is connected already, is asked as well.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
import time

import ray

from raydistill.orchestration.halting import HALT_SECONDS
from raydistill.orchestration.losses import LOST_SECONDS, Head
from raydistill.orchestration.machines import leaving_machines

LOOK_SECONDS = 2.0
"""Between looks at the head: each is a connection, of every process of the cluster."""
AGAIN_SECONDS = 1.0
"""Between looks at one that has refused."""
REFUSALS = 3
"""How often it has to refuse, one time after the other."""
ANSWER_SECONDS = 2.0
"""How long Ray may take to answer then. With the looks, and what saving may take, a process ends within 12 seconds; within 15 of when a driver gives up a head that says nothing."""
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
USUAL_SECONDS = 60.0
"""How long Ray looks for a head by default. Who sets more, as KubeRay does where the head's state is kept in Redis, awaits one that comes back, for as long."""


@functools.cache
def end_with_head() -> None:
    """Watch the head from now on, in a thread; once in a process, however often it is called."""
    head = Head(ray.get_runtime_context().gcs_address)
    threading.Thread(target=watch, args=(head, _patience()), name="orphan-watch", daemon=True).start()


def watch(head: Head, patience: float = LOST_SECONDS) -> None:
    """Return never: when the head refuses, or says nothing for too long, and Ray does not reach it either, tell this process to save and end, and end it where it does not.

    Args:
        head: of the cluster.
        patience: how long it may say nothing, in seconds; one that is awaited for longer than a driver does may also refuse for as long.
    """
    while not _is_gone(head, patience):
        time.sleep(LOOK_SECONDS)
    # Not a warning of a log: those of a trial are told to the coordinator, which may be gone with the head.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"the head of the cluster, at {head.address}, is gone; process {os.getpid()} saves and ends\n")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(HALT_SECONDS)
    os._exit(128 + signal.SIGTERM)


def _is_gone(head: Head, patience: float) -> bool:
    for _ in range(REFUSALS):
        if head.answers():
            return False
        if not head.refused or patience > LOST_SECONDS:
            if head.silent() <= patience:
                return False
            break
        time.sleep(AGAIN_SECONDS)
    try:
        leaving_machines(ANSWER_SECONDS)
    except Exception:
        # Whatever Ray says of a head that is gone, or of a connection that it has given up: the watch must not end with it.
        return True
    return False


def _patience() -> float:
    """How long a head that does not answer is waited for, in seconds."""
    try:
        seconds = float(os.environ.get(RECONNECT, USUAL_SECONDS))
    except ValueError:
        return LOST_SECONDS
    return seconds if seconds > USUAL_SECONDS else LOST_SECONDS
