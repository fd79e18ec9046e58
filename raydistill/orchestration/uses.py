"""Who uses what of a depot, so that what nobody has used for long can be removed while other processes are at work.

DEPOT/.<digest>.use.lock      shared by all who use it, until they are done or dead; its time is that of the last use

Where machines share a cache, another one may not see who has locked what. So whoever uses something goes on to say so, by the file's time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from pathlib import Path
from types import TracebackType

from raydistill.errors import StorageError
from raydistill.flocks import is_locked, lock_file

logger = logging.getLogger(__name__)
UNUSED_SECONDS = 12 * 3600.0
"""After so long without use it goes. Commands and processes that read something at once, and not for hours, do not say that they use it."""
TOUCH_SECONDS = UNUSED_SECONDS / 24
"""Between two words of whoever uses something that he still does."""
REMOVED = ".removed-"


class Uses:
    """What somebody uses: none of it is removed until he is done, or his process has ended."""

    def __init__(self) -> None:
        self._held: dict[Path, int] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Uses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        # Used until now, and not since it was brought.
        self.touch()
        while self._held:
            _, descriptor = self._held.popitem()
            os.close(descriptor)

    def claim(self, folder: Path) -> None:
        """Use a folder of the depot from now on."""
        if folder not in self._held:
            descriptor = lock_file(_use_file(folder))
            self._held[folder] = descriptor
            # Whoever is just removing it is waited for.
            is_locked(descriptor, folder, shared=True, wait=True)
        os.utime(_use_file(folder))
        if self._thread is None:
            # Of its own: what uses a folder may be busy for a day in one call.
            self._thread = threading.Thread(target=self._keep, name="uses", daemon=True)
            self._thread.start()

    def touch(self) -> None:
        """Say of everything that it is still in use."""
        for folder in list(self._held):
            # Unless somebody has removed the whole cache.
            with contextlib.suppress(OSError):
                os.utime(_use_file(folder))

    def _keep(self) -> None:
        while not self._over.wait(TOUCH_SECONDS):
            self.touch()


def prune(depot: Path) -> None:
    """Remove what nobody uses, nor has used for long."""
    for folder in [path for path in depot.iterdir() if path.is_dir()]:
        try:
            if _unused_seconds(folder) > UNUSED_SECONDS:
                _remove(folder)
        except (OSError, StorageError) as problem:
            logger.warning("%s, which nobody has used for long, stays for now: %s", folder, problem)


def _unused_seconds(folder: Path) -> float:
    # What older releases brought has no file beside it.
    marks = [path for path in (_use_file(folder), folder) if path.exists()]
    return time.time() - marks[0].stat().st_mtime if marks else 0.0


def _remove(folder: Path) -> None:
    if folder.name.startswith("."):
        # Half of one, which a process was fetching, or removing, when it died.
        shutil.rmtree(folder)
        return
    descriptor = lock_file(_use_file(folder))
    try:
        # Whoever is about to use it waits for this lock, and then brings it again. The lock's own file stays: he would else hold one that nobody sees.
        if is_locked(descriptor, folder) and _unused_seconds(folder) > UNUSED_SECONDS:
            logger.info("removing %s, which nobody has used for %g hours", folder, UNUSED_SECONDS / 3600)
            aside = folder.with_name(f"{REMOVED}{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(folder, aside)
            shutil.rmtree(aside)
    finally:
        os.close(descriptor)


def _use_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.use.lock")
