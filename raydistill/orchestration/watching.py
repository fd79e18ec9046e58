"""Whether a lease is held, by those who do not hold it. Not by comparing clocks, which differ between machines, but by watching whether somebody renews it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from raydistill.errors import RunDirectoryError
from raydistill.orchestration.processes import is_of_this_machine, running
from raydistill.orchestration.remote import RemoteFolder

logger = logging.getLogger(__name__)
NAME = ".lease.json"
LEASE_SECONDS = 30.0
RENEW_SECONDS = 5.0
LOOK_SECONDS = 1.0
MARGIN_SECONDS = 2.0
"""How much longer than a lease holds it is watched: clocks run at slightly different speeds."""
ORPHAN_SECONDS = 75.0
"""How long the lease of a driver of another machine is watched at least. Where its cluster lost its head, the processes of its trials live on for three quarters of a minute
(`orphans.py`; 37 and 39 s were measured), and send what they write; the rest is margin, for those that had just begun to watch."""
GLANCE_SECONDS = 2 * RENEW_SECONDS
"""How long whoever only wants to know watches a lease that looks as if it had run out; its holder renews it twice meanwhile."""
LONG_AGO_SECONDS = 3600.0
"""No clock is that wrong: a storage with keys refuses requests of one that is wrong by a quarter of an hour."""


def read(remote: RemoteFolder) -> dict[str, Any]:
    """The lease as it lies there; empty where there is none, or nothing that can be read."""
    return _parsed(remote.read(NAME))


def is_held(remote: RemoteFolder) -> bool:
    """Whether somebody holds a run, for those who only want to know: at once where it looks like it, or nobody has for long; else after a glance of seconds."""
    content = remote.read(NAME)
    lease = _parsed(content)
    if _is_free(lease):
        return False
    left = lease["until"] - time.time()
    # What looks as if it held for longer than a lease does was written by another clock.
    if 0 <= left <= _length(lease):
        return True
    if left < -LONG_AGO_SECONDS:
        return False
    found = _changed(remote, content, GLANCE_SECONDS)
    return found is not None and not _is_free(_parsed(found))


def await_end(remote: RemoteFolder, token: str = "", heed: Callable[[], None] = lambda: None) -> tuple[bytes, bool]:
    """Watch a lease until it is free for certain.

    The whole length, even where it looks as if it had run out: its holder has a right to it, and may only have a clock that is behind. That of a driver of another
    machine for longer, until the processes that it started are gone, too.

    Args:
        remote: the run.
        token: of whoever watches: what he has written himself, and too late, is watched for its length, in case there is a holder who writes over it.
        heed: called at every look; raises where the watch is to end.

    Returns:
        What lies there, and whether its holder has only fallen silent, and has not let it go.

    Raises:
        RunDirectoryError: its holder renews it.
    """
    content = remote.read(NAME)
    lease = _parsed(content)
    if _is_free(lease):
        return content or b"", False
    here, own = is_of_this_machine(lease), lease.get("token") == token
    if here and not own and lease["until"] > time.time():
        raise in_use(remote, lease)
    seconds = max(_length(lease) + MARGIN_SECONDS, 0.0 if here else ORPHAN_SECONDS)
    said = "the storage was slow or failed" if own else f"it was held by {_holder(lease)}"
    logger.warning("%s: %s; watched for %g s to see whether another driver holds it", remote.name, said, seconds)
    found = _changed(remote, content, seconds, heed)
    if found is None:
        return content or b"", True
    lease = _parsed(found)
    if _is_free(lease):
        return found, False
    raise in_use(remote, lease)


def in_use(remote: RemoteFolder, lease: Mapping[str, Any]) -> RunDirectoryError:
    """What whoever wants a run is told that another one holds."""
    end = f"{time.strftime('%H:%M:%S', time.localtime(lease['until']))} by its clock" if lease else "an unknown time"
    return RunDirectoryError(
        f"{remote.name} is in use by {_holder(lease)}, whose lease runs out at {end}, unless it is renewed",
        expected="one driver per run",
        consequence="two campaigns would write one ledger",
        remedy="wait for it, stop it, or choose another --run-dir; a run whose driver was killed is free at once on that driver's machine, elsewhere after "
        f"{ORPHAN_SECONDS:g} s, for which --resume waits",
    )


def _changed(
    remote: RemoteFolder, content: bytes | None, seconds: float, heed: Callable[[], None] = lambda: None
) -> bytes | None:
    """What lies there as soon as it is something else; None where it stays the same for so long."""
    watched, last = 0.0, time.monotonic()
    while watched < seconds:
        heed()
        time.sleep(LOOK_SECONDS)
        found = remote.read(NAME)
        if found != content:
            return found or b""
        now = time.monotonic()
        # While the storage did not answer, its holder could not renew it either.
        watched += now - last if now - last < RENEW_SECONDS else LOOK_SECONDS
        last = now
    return None


def _parsed(content: bytes | None) -> dict[str, Any]:
    try:
        lease = json.loads(content or b"{}")
    except ValueError:
        return {}
    return lease if isinstance(lease, dict) and isinstance(lease.get("until"), float) else {}


def _is_free(lease: Mapping[str, Any]) -> bool:
    """Whether nobody holds it, as far as can be seen at once: it was let go, or its holder has died on this machine."""
    return not lease or (is_of_this_machine(lease) and running(lease) is None)


def _length(lease: Mapping[str, Any]) -> float:
    # Older releases did not write it.
    return float(lease.get("seconds", LEASE_SECONDS))


def _holder(lease: Mapping[str, Any]) -> str:
    return str(lease.get("holder", "another process"))
