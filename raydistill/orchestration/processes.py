"""Which process it was, beyond its number: numbers are given again, every container has a process 37, and cloned machines share a name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil


def this_process() -> dict[str, Any]:
    """What tells this process from every other one, as JSON: `machine`, `pid`, and when it `began`."""
    pid = os.getpid()
    return {"machine": _machine(), "pid": pid, "began": psutil.Process(pid).create_time()}


def is_of_this_machine(identity: Mapping[str, Any]) -> bool:
    """Whether a process is, or was, of this machine and of the container on it, so that it can be seen from here whether it runs."""
    return bool(identity.get("machine") == _machine())


def running(identity: Mapping[str, Any]) -> psutil.Process | None:
    """The process of an identity; None where it has ended, or lies elsewhere."""
    if not is_of_this_machine(identity):
        return None
    try:
        process = psutil.Process(identity["pid"])
        return process if process.create_time() == identity["began"] else None
    except (psutil.Error, TypeError, ValueError, KeyError):
        return None


def _machine() -> str:
    host = os.uname().nodename
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{host} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{host} "
