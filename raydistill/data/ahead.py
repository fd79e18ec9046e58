"""The next batches are put together by processes beside the one at work, so that a device does not wait for them.

Threads would do it in the time of the one that hands out the device's work: Python runs one of them at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import multiprocessing.util
import os
import pickle
import signal
from collections.abc import Callable, Generator, Iterable
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch

from raydistill.data.passing import Passage, Written, written
from raydistill.errors import TrainingError

Given = TypeVar("Given")
Built = TypeVar("Built")
FIRST = 10
"""Before `multiprocessing` itself tells processes to end, and then waits for them."""
BUILT, PROBLEM, LAST = "built", "problem", "last"
MOST_BUILDERS = 2
"""One takes some 25 ms for a batch of a thousand triples, and the quickest step that was seen on a GPU 36."""


def usual_builders(device: torch.device, workers: int, *, in_turn: bool) -> int:
    """How many processes build for one that trains on a device: no more than its share of the machine's processors has beside it, and none where it is a processor itself.

    Args:
        device: where the model is.
        workers: of the trial, among whom the processors are shared out, as if all were on this machine and no other trial was.
        in_turn: whether a batch depends on those before it, such as those whose candidates are its negatives.
    """
    if device.type != "cuda":
        return 0
    return 1 if in_turn else max(1, min(MOST_BUILDERS, len(os.sched_getaffinity(0)) // workers - 1))


def built_ahead(given: Iterable[Given], build: Callable[[Given], Built], *, builders: int) -> Generator[Built]:
    """What is built of each thing given, in order.

    Args:
        given: what batches are made of; several builders go through it each, and leave out what is another's.
        build: makes one. Where it changes something, each builder changes a copy of its own.
        builders: processes that make the next ones meanwhile, each at most two ahead; 0 where they would take the processor from the one at work. More than one only
            where a batch does not depend on those before it. They end when the iterator is closed, or with the process that began them, however that ends.

    Raises:
        TrainingError: a process died.
        Exception: what `build` raised, when its batch has its turn.
    """
    if not builders:
        for one in given:
            yield build(one)
        return
    # Forked: the graph and its texts are shared with this process, not copied to another.
    context = multiprocessing.get_context("fork")
    passages, processes = [Passage(context) for _ in range(builders)], list[BaseProcess]()
    end = multiprocessing.util.Finalize(None, _end, args=(processes, passages), exitpriority=FIRST)
    try:
        for number in range(builders):
            share = given, build, passages, number
            builder = context.Process(target=_build_share, args=share, daemon=True, name="batches")
            builder.start()
            processes.append(builder)
        for passage in passages:
            passage.sender.close()
        for process, passage in itertools.cycle(zip(processes, passages, strict=True)):
            kind, what = _received(passage, process)
            if kind == LAST:
                return
            if kind == PROBLEM:
                raise what
            yield what
    finally:
        end()


def _received(passage: Passage, process: BaseProcess) -> Any:
    try:
        return passage.receive()
    except (EOFError, OSError):
        process.join()
        raise TrainingError(
            f"a process that puts batches together ended with exit code {process.exitcode}",
            expected="a process that lives as long as the epoch",
            consequence="the next step would have no batch; no step was taken without one",
            remedy="-9 and -7 are often want of memory: give the trial more, or run again with --resume",
        ) from None


def _end(processes: list[BaseProcess], passages: list[Passage]) -> None:
    """They hold nothing that would have to be put in order."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    for passage in passages:
        passage.receiver.close()


def _build_share(given: Iterable[Any], build: Callable[[Any], Any], passages: list[Passage], number: int) -> None:
    """What a process does: it is no further ahead, because nobody takes the next before."""
    # Whoever is told to end and saves is the process that trains, with which this one ends.
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, signal.SIG_IGN)
    # While it had a reader's end itself it would not notice that; and while it had another's end nobody would notice that the other has died.
    for other, passage in enumerate(passages):
        passage.receiver.close()
        if other != number:
            passage.sender.close()
    # Threads of the process that was forked are not there.
    torch.set_num_threads(1)
    own = passages[number]
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        for told in _told(itertools.islice(given, number, None, len(passages)), build):
            own.send(told)


def _told(given: Iterable[Any], build: Callable[[Any], Any]) -> Generator[Written]:
    """A batch each, and what there is instead of the next one."""
    try:
        for one in given:
            yield written((BUILT, build(one)))
    except Exception as problem:
        yield _told_of(problem)
    yield written((LAST, None))


def _told_of(problem: Exception) -> Written:
    try:
        pickle.loads(pickle.dumps(problem))
    except Exception:
        # Of an error that does not go from process to process, what it says.
        problem = TrainingError(
            f"a batch could not be put together: {problem!r}",
            expected="triples whose texts can be put together",
            consequence="the next step would have no batch; no step was taken without one",
            remedy="report this with the configuration, because no input should lead to it",
        )
    return written((PROBLEM, problem))
