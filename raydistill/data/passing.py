"""How what one process has built comes to another: its numbers through memory that both see, and through a connection what says how to read them.

Through a pipe alone, which holds 64 KB, a batch of several megabytes would go in a hundred turns of two processes.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import pickle
from itertools import accumulate
from multiprocessing.context import ForkContext
from typing import Any

import torch
from torch import Tensor

ROOM = 64 * 2**20
"""Bytes of memory for one thing; of a larger one the numbers go through the connection, too. What is not written to is not taken."""
ALIGNED = 64
"""Numbers begin at a multiple of it: a processor's cache line."""
TAKEN = b"taken"
Written = tuple[bytes, list[memoryview]]
"""What says how to read a thing, and the numbers in it."""


class Passage:
    """A way from a child of a fork to its parent, for one thing at a time; either closes the end that is the other's.

    Args:
        context: whose processes fork.
        room: bytes that both see.
    """

    def __init__(self, context: ForkContext, room: int = ROOM) -> None:
        self.receiver, self.sender = context.Pipe(duplex=True)
        self._memory = mmap.mmap(-1, room)
        self._is_free = True

    def send(self, thing: Written) -> None:
        """Give a thing away, once the one before has been taken.

        Raises:
            EOFError, OSError: nobody is there to take it.
        """
        head, parts = thing
        if not self._is_free:
            self.sender.recv_bytes()
        self._is_free = False
        sizes = [part.nbytes for part in parts]
        starts, total = _starts(sizes)
        fits = total <= len(self._memory)
        if fits:
            for start, size, part in zip(starts, sizes, parts, strict=True):
                self._memory[start : start + size] = part
        self.sender.send_bytes(pickle.dumps((head, sizes, fits)))
        if not fits:
            self.sender.send_bytes(b"".join(part.tobytes().ljust(_whole(part.nbytes), b"\0") for part in parts))

    def receive(self) -> Any:
        """The next thing.

        Raises:
            EOFError, OSError: nobody is there to give it.
        """
        head, sizes, fits = pickle.loads(self.receiver.recv_bytes())
        starts, total = _starts(sizes)
        # Copied at once, so that what comes next may be written over it.
        numbers = memoryview(bytearray(memoryview(self._memory)[:total] if fits else self.receiver.recv_bytes()))
        # After its last thing the other process is gone.
        with contextlib.suppress(OSError):
            self.receiver.send_bytes(TAKEN)
        buffers = (numbers[start : start + size] for start, size in zip(starts, sizes, strict=True))
        return pickle.loads(head, buffers=buffers)


def _whole(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _starts(sizes: list[int]) -> tuple[list[int], int]:
    """Where buffers of these sizes begin, and the bytes of all."""
    *starts, total = accumulate(map(_whole, sizes), initial=0)
    return starts, total


def written(thing: Any) -> Written:
    """A thing as `Passage.send` takes it.

    Raises:
        Exception: it is none that can be written.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = io.BytesIO()
    _Pickler(head, protocol=5, buffer_callback=buffers.append).dump(thing)
    return head.getvalue(), [buffer.raw() for buffer in buffers]


class _Pickler(pickle.Pickler):
    """Writes tensors as arrays: torch's own way begins an archive for each."""

    def reducer_override(self, thing: Any) -> Any:
        """A tensor is made of its array again, everything else of what it says itself."""
        return (torch.from_numpy, (thing.numpy(),)) if isinstance(thing, Tensor) else NotImplemented
