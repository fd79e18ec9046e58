"""Large packages, imported in less time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep Python's garbage collector from running, in a `with` block or, as a decorator, in a function.

    What an import defines stays, and yet the collector looks through all of it again and again while it grows: a fifth of the time that torch
    and transformers take, in every process that starts.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Blocks of several threads may overlap. Whoever found it running has it run again, so that none leaves it off for good.
        if collects:
            gc.enable()
