"""What every process of a campaign has to have in common with its driver, wherever it runs: the code, and the run directory.

The machines of a cluster import what is installed on them, and a path at which nothing is mounted is a folder of their own. Neither fails: it gives results that
look like any others. So a process asks before it makes or trains anything.
"""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import psutil

import raydistill
from raydistill.errors import ConfigError, StorageError
from raydistill.orchestration.environment import version_of
from raydistill.orchestration.processes import is_of_this_machine, this_process
from raydistill.orchestration.runstore import IDENTITY, RunStore

NUMERICAL = ("torch", "transformers")
"""What decides, beside our own code, which numbers a trial comes to."""
PACKAGE = Path(raydistill.__file__).parent


@dataclass(frozen=True)
class Release:
    """The code of a process.

    Attributes:
        version: raydistill's.
        source: SHA-256 of its files.
        folder: where they lie.
        machine: on which; see `processes.this_process`.
        server: the share of a file server on which they lie, as every machine names it; empty for a disk.
        beside: versions of `NUMERICAL`.
    """

    version: str
    source: str
    folder: str
    machine: str
    server: str
    beside: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"raydistill {self.version} (source {self.source[:12]})"


@functools.cache
def release_here() -> Release:
    """That of this process, read once. Nothing is imported for it: processes that do not train go without torch."""
    machine = str(this_process()["machine"])
    return Release(
        raydistill.__version__, source_digest(PACKAGE), str(PACKAGE), machine, _server_of(PACKAGE), _beside()
    )


def source_digest(package: Path) -> str:
    """SHA-256 of a package's Python files and their names; what `raydistill submit` leaves out does not count."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        if not any(part.startswith((".", "__pycache__")) for part in name.parts):
            content = path.read_bytes()
            digest.update(f"{name.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _server_of(folder: Path) -> str:
    """The share on which a folder lies: `server:/export`, `//server/share`."""
    above = {str(one) for one in (folder, *folder.parents)}
    mounts = [one for one in psutil.disk_partitions(all=True) if one.mountpoint in above]
    device = max(mounts, key=lambda one: len(one.mountpoint), default=None)
    return device.device if device is not None and (":/" in device.device or device.device.startswith("//")) else ""


def _beside() -> tuple[tuple[str, str], ...]:
    found = ((name, version_of(name)) for name in NUMERICAL)
    # One that is built for another device (2.13.0+cpu) is the same release.
    return tuple((name, version.partition("+")[0]) for name, version in found if version is not None)


@dataclass(frozen=True)
class Premises:
    """What the driver has.

    Attributes:
        store: its run; one without an identity is not asked for.
        release: its code; None = not asked for.
    """

    store: RunStore
    release: Release | None = None

    def require(self) -> None:
        """Refuse to work in a process that has something else.

        Raises:
            ConfigError: it has other code.
            StorageError: it does not see the run directory, or cannot read it.
        """
        if self.release is not None and self._is_other_code(self.release) and not _is_same_place(self.release):
            raise other_code(self.release, release_here())
        if self.store.identity:
            _require_run(self.store)

    def doubts(self) -> list[str]:
        """What is no reason to refuse, and may explain a result: one sentence each."""
        if self.release is None:
            return []
        ours, theirs = dict(release_here().beside), dict(self.release.beside)
        told = [
            f"{_host()} has {name} {ours[name]}, the driver's machine {version}: the same trial may come to other numbers here; install the same"
            for name, version in theirs.items()
            if name in ours and ours[name] != version
        ]
        if self._is_other_code(self.release) and _is_same_place(self.release):
            told.append(
                f"{self.release.folder} has been changed since the campaign began: this process has other code than the driver; end the campaign and go on "
                "with --resume, or undo the change"
            )
        return told

    @staticmethod
    def _is_other_code(release: Release) -> bool:
        ours = release_here()
        return (release.version, release.source) != (ours.version, ours.source)


def other_code(theirs: Release, ours: Release) -> ConfigError:
    """The error of a machine with another raydistill than the driver's."""
    return ConfigError(
        f"{_host()} has {ours} in {ours.folder}; the driver has {theirs}",
        expected="the same raydistill on every machine of the cluster",
        consequence="trials would be trained by other code than what plans and compares them",
        remedy="install the driver's raydistill there, or start the campaign with `raydistill submit`, which sends it; then go on with --resume",
    )


def _is_same_place(release: Release) -> bool:
    """Whether a driver's code lies in the same folder, of this machine or of one file server: what differs then was edited meanwhile, which need not end a campaign of days."""
    shared = bool(release.server) and release.server == release_here().server
    return release.folder == str(PACKAGE) and (shared or is_of_this_machine({"machine": release.machine}))


def _require_run(store: RunStore) -> None:
    try:
        found = store.read(IDENTITY)
    except StorageError as problem:
        raise _unreadable(store, problem) from problem
    if found is not None and found.decode(errors="replace").strip() == store.identity:
        return
    raise StorageError(
        f"{_host()} does not see the driver's run directory: {store.place} has {'no' if found is None else 'another'} {IDENTITY} there",
        expected=f"the same folder under {store.place} on every machine of the cluster",
        consequence="what is trained there would lie on a disk of that machine alone, and be missing where it is promoted",
        remedy=f"mount the driver's folder on {_host()} under the same path, or take a --run-dir that needs none, such as s3://bucket/runs/first; what is "
        "there already goes on with --resume",
    )


def _unreadable(store: RunStore, problem: StorageError) -> StorageError:
    """The error of a run that the driver can read, and this process cannot."""
    if store.remote is None:
        return problem
    return StorageError(
        f"{problem.received} (asked by a process of the cluster, on {_host()}; the driver could read it)",
        expected="the driver's access to the run on every machine of the cluster",
        consequence="what is trained there could not be kept",
        remedy="where the driver has its credentials in the environment, give them to the processes of the cluster, too: raydistill run --env AWS_ACCESS_KEY_ID "
        "--env AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN where there is one); or give the machines a role of their own; or look at their network; then run "
        "again with --resume",
    )


def _host() -> str:
    return os.uname().nodename
