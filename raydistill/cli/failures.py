"""From exceptions to exit codes and explanations. The one place that catches everything, because nothing is outside it."""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from raydistill.errors import ConfigError, OutOfMemoryError, RayDistillError, StorageError

UNEXPECTED = 70
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE
TERMINATED = 128 + signal.SIGTERM
KEPT = "; what was finished is kept, and the same command with --resume goes on from it"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
BAD_PATH = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""What only a path that somebody gave can be. A missing file is not among them: where it was given, it is looked for by name."""


@contextmanager
def explained(*, debug: bool = False, resumable: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Let what happens inside end the process with an exit code, and an explanation on standard error.

    Args:
        debug: show the traceback of an unexpected error instead of writing it to a file.
        resumable: whether what ended can be gone on with, asked at that moment.

    Raises:
        SystemExit: something went wrong inside.
    """
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except SystemExit as ending:
        # While a cluster is up, Ray's own handler of SIGTERM ends the process with the bare number of the signal.
        if ending.code not in (signal.SIGTERM, TERMINATED):
            raise
        click.echo(f"terminated{KEPT if resumable() else ''}", err=True)
        raise SystemExit(TERMINATED) from None
    except KeyboardInterrupt:
        click.echo(f"interrupted{KEPT if resumable() else ''}", err=True)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        _silence_standard_output()
        raise SystemExit(BROKEN_PIPE) from None
    except Exception as error:
        known = deliberate(error)
        if known is None:
            click.echo(_unexpected(error, debug), err=True)
            raise SystemExit(UNEXPECTED) from None
        click.echo(f"error: {RayDistillError.__str__(known)}", err=True)
        raise SystemExit(known.exit_code) from None


def deliberate(error: BaseException) -> RayDistillError | None:
    """The error of ours that an exception is or stands for; None where it is neither ours nor the user's to mend."""
    # An error that crossed a process border arrives wrapped, with the remote traceback as its text.
    cause = getattr(error, "cause", None)
    if isinstance(cause, RayDistillError):
        return cause
    if isinstance(error, RayDistillError):
        return error
    if _is_out_of_memory(error):
        said = str(cause or error).partition("\n")[0] or type(error).__name__
        return OutOfMemoryError(
            f"no memory left: {said}",
            expected="room for the model, and for what is read and computed",
            consequence="this was given up; what was saved before is whole",
            remedy="see who else uses the memory (free) or the GPU (nvidia-smi; CUDA_VISIBLE_DEVICES= before a command goes without it), or take a larger machine",
        )
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return StorageError(
            f"{_file_of(error)}: {error.strerror or error}",
            expected="a place with room that can be written",
            consequence="nothing more could be saved; what was saved before is whole",
            remedy="make room there or name another place, then run again (a campaign with --resume)",
        )
    if isinstance(error, OSError) and error.errno in BAD_PATH:
        return ConfigError(
            f"{_file_of(error)}: {error.strerror or error}",
            expected="a path this user may read or write",
            consequence="nothing could be read or written there",
            remedy="change its permissions or name another path",
        )
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from raydistill.training.memory import is_out_of_memory

    return is_out_of_memory(error)


def _file_of(error: OSError) -> str:
    return str(error.filename) if error.filename is not None else "a file"


def _unexpected(error: Exception, debug: bool) -> str:
    trace = "".join(traceback.format_exception(error))
    first = f"unexpected error: {type(error).__name__}: {error}"
    if debug:
        return f"{trace}\n{first}"
    try:
        descriptor, path = tempfile.mkstemp(prefix="raydistill-", suffix="-traceback.txt")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(trace)
    except OSError:
        return f"{trace}\n{first}"
    return f"{first}\n  this is a fault of raydistill, not of your input\n  the traceback was written to {path} (--debug shows it)"


def _silence_standard_output() -> None:
    """The reader has gone: without this, Python complains once more when it flushes at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
