"""The next batch is put together while the current one is computed on a device, which would otherwise wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Built = TypeVar("Built")


def built_ahead(
    given: Iterable[Given], build: Callable[[Given], Built], *, ahead: bool
) -> Iterator[tuple[Given, Built]]:
    """What is built of each thing given, in order.

    Args:
        given: what batches are made of.
        build: makes one.
        ahead: whether the next one is made in a thread meanwhile; False where it would take the processor from the one at work.
    """
    if not ahead:
        for one in given:
            yield one, build(one)
        return
    with ThreadPoolExecutor(1, "batches") as thread:
        coming: tuple[Given, Future[Built]] | None = None
        for one in given:
            last, coming = coming, (one, thread.submit(build, one))
            if last is not None:
                yield last[0], last[1].result()
        if coming is not None:
            yield coming[0], coming[1].result()
