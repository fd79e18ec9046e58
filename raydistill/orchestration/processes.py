"""Which process it was, beyond its number: numbers are given again, every container has a process 37, and cloned machines share a name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

STARTED = 22 - 3
"""Place of the moment a process started, field 22 of /proc/PID/stat, among those that follow its name, the first of which is field 3."""


def this_process() -> dict[str, Any]:
    """What tells this process from every other one, as JSON. See `process_of`."""
    return process_of(os.getpid())


def process_of(pid: int) -> dict[str, Any]:
    """What tells a running process of this machine from every other one, as JSON.

    Returns:
        `machine`, `pid`, when it `began` by the wall clock, in seconds since 1970, and `ticks`: when it did by the clock that nobody sets, in ticks since
        the machine started; None where the system does not say.

    Raises:
        psutil.Error: there is none.
    """
    return {"machine": _machine(), "pid": pid, "began": psutil.Process(pid).create_time(), "ticks": _ticks(pid)}


def titled(processes: Iterable[psutil.Process], title: str) -> Iterator[psutil.Process]:
    """Those whose title begins so; Ray gives its own, such as `ray::Coordinator`. Some may end while they are asked."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith(title):
                yield process


def is_of_this_machine(identity: Mapping[str, Any]) -> bool:
    """Whether a process is, or was, of this machine and of the container on it, so that it can be seen from here whether it runs."""
    return bool(identity.get("machine") == _machine())


def running(identity: Mapping[str, Any]) -> psutil.Process | None:
    """The process of an identity; None where it has ended, or lies elsewhere."""
    if not is_of_this_machine(identity):
        return None
    try:
        process = psutil.Process(identity["pid"])
        ticks = _ticks(process.pid)
        # psutil adds the moment the machine started, which moves whenever the clock is set. Older releases wrote nothing else.
        if ticks is not None and identity.get("ticks") is not None:
            same = ticks == identity["ticks"]
        else:
            same = process.create_time() == identity["began"]
        return process if same else None
    except (psutil.Error, TypeError, ValueError, KeyError):
        return None


def _ticks(pid: int) -> int | None:
    try:
        # The name, in parentheses, may hold anything, spaces and parentheses included.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[STARTED])
    except (OSError, IndexError, ValueError):
        return None


def _machine() -> str:
    host = os.uname().nodename
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{host} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{host} "
