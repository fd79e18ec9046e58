"""Cleans up after a driver that was killed: run as a process of its own, with a pipe from the driver as standard input.

Ray's daemons die with their driver, but two of its helpers try for a minute to tell a cluster that is gone that it is gone. This file imports nothing
but the standard library, so that the process is small and starts in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
import time
from pathlib import Path

GRACE_SECONDS = 2.0


def main(folder: str) -> None:
    """Wait for the end of standard input, which is the driver's; then end what still writes below `folder`, and remove it.

    Args:
        folder: the temporary folder of the driver's own cluster.
    """
    sys.stdin.buffer.read()
    if not Path(folder).exists():
        return
    time.sleep(GRACE_SECONDS)
    for pid in writers(folder):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def writers(folder: str) -> list[int]:
    """Processes that have a file below `folder` open for writing. Their titles were overwritten by Ray, their open logs were not.

    Whoever only reads such a log is none of the cluster's.
    """
    return [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if int(process.name) != os.getpid() and any(name.startswith(f"{folder}/") for name in _open_files(process))
    ]


def _open_files(process: Path) -> list[str]:
    names = []
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if descriptor.lstat().st_mode & stat.S_IWUSR:
                    names.append(os.readlink(descriptor))
    return names


if __name__ == "__main__":
    main(sys.argv[1])
