"""The next batches are put together by a process beside the one at work, so that a device does not wait for them.

A thread would do it in the time of the one that hands out the device's work: Python runs one of them at a time.
"""

from __future__ import annotations

import io
import multiprocessing
import multiprocessing.util
import pickle
import signal
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
from torch import Tensor

from raydistill.errors import TrainingError

Given = TypeVar("Given")
Built = TypeVar("Built")
FIRST = 10
"""Before `multiprocessing` itself tells processes to end, and then waits for them."""


def built_ahead(
    given: Iterable[Given], build: Callable[[Given], Built], *, ahead: bool
) -> Generator[tuple[Given, Built]]:
    """What is built of each thing given, in order.

    Args:
        given: what batches are made of.
        build: makes one. Where it changes something, `ahead` changes a copy of it.
        ahead: whether a process makes the next one meanwhile; False where it would take the processor from the one at work. It ends when the iterator is closed, or
            with the process that began it, however that ends.

    Raises:
        TrainingError: the process died.
        Exception: what `build` raised, when its batch has its turn.
    """
    if not ahead:
        for one in given:
            yield one, build(one)
        return
    # Forked: the graph and its texts are shared with this process, not copied to another.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_build_all, args=(given, build, sender, receiver), daemon=True, name="batches")
    process.start()
    end = multiprocessing.util.Finalize(None, _end, args=(process, receiver), exitpriority=FIRST)
    sender.close()
    try:
        while (sent := _received(receiver, process)) is not None:
            yield sent
    finally:
        end()


def _received(receiver: Connection, process: BaseProcess) -> Any:
    """The next pair; None after the last one."""
    try:
        problem, sent = pickle.loads(receiver.recv_bytes())
    except (EOFError, OSError):
        process.join()
        raise TrainingError(
            f"the process that puts batches together ended with exit code {process.exitcode}",
            expected="a process that lives as long as the epoch",
            consequence="the next step would have no batch; no step was taken without one",
            remedy="-9 is often want of memory: give the trial more, or run again with --resume",
        ) from None
    if problem is not None:
        raise problem
    return sent


def _end(process: BaseProcess, receiver: Connection) -> None:
    """It holds nothing that would have to be put in order."""
    process.kill()
    process.join()
    receiver.close()


def _build_all(given: Iterable[Any], build: Callable[[Any], Any], sender: Connection, receiver: Connection) -> None:
    """What the process does: it is at most one batch ahead, because nobody takes the next from the pipe before."""
    # Whoever is told to end and saves is the process that trains, with which this one ends. While it had a reader's end itself, it would not notice.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    receiver.close()
    # Threads of the process that was forked are not there.
    torch.set_num_threads(1)
    try:
        for one in given:
            sender.send_bytes(_written((None, (one, build(one)))))
        sender.send_bytes(_written((None, None)))
    except BrokenPipeError:
        return
    except Exception as problem:
        sender.send_bytes(_written((problem, None)))


def _written(what: Any) -> bytes:
    written = io.BytesIO()
    _Pickler(written, protocol=5).dump(what)
    return written.getvalue()


class _Pickler(pickle.Pickler):
    """Writes tensors as arrays: torch's own way begins an archive for each."""

    def reducer_override(self, thing: Any) -> Any:
        """A tensor is made of its array again, everything else of what it says itself."""
        return (torch.from_numpy, (thing.numpy(),)) if isinstance(thing, Tensor) else NotImplemented
