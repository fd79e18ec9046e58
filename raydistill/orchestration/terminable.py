"""SIGTERM to a driver: it ends by unwinding, with everything closed, as by Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGTERM_EXIT = 128 + signal.SIGTERM


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end a campaign as Ctrl-C does. Only the main thread hears signals; elsewhere this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    received = False

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        raise SystemExit(SIGTERM_EXIT)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit:
        # A SystemExit that crosses Ray's own code comes out with another code.
        if received:
            raise SystemExit(SIGTERM_EXIT) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
