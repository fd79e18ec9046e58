"""The next batches are put together by a process beside the one at work, so that a device does not wait for them.

A thread would do it in the time of the one that hands out the device's work: Python runs one of them at a time.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

Given = TypeVar("Given")
Built = TypeVar("Built")
BATCHES_AHEAD = 3


def built_ahead(
    given: Iterable[Given], build: Callable[[Given], Built], *, ahead: bool
) -> Iterator[tuple[Given, Built]]:
    """What is built of each thing given, in order.

    Args:
        given: what batches are made of.
        build: makes one. Where it changes something, `ahead` changes a copy of it.
        ahead: whether a process makes the next ones meanwhile; False where it would take the processor from the one at work. What was built then travels through
            a pipe.

    Raises:
        Exception: what `build` raised, when its batch has its turn.
    """
    if not ahead:
        for one in given:
            yield one, build(one)
        return
    # Forked: the graph and its texts are shared with this process, not copied to another. A generator of its own leaves the process's random state alone.
    loader: DataLoader[bytes] = DataLoader(
        _Sent(given, build),
        batch_size=None,
        num_workers=1,
        prefetch_factor=BATCHES_AHEAD,
        multiprocessing_context="fork",
        generator=torch.Generator(),
    )
    for one in loader:
        yield pickle.loads(one)


class _Sent(IterableDataset[bytes]):
    """What is built, each as bytes: tensors by themselves would travel as one open file each."""

    def __init__(self, given: Iterable[Any], build: Callable[[Any], Any]) -> None:
        self.given, self.build = given, build

    def __iter__(self) -> Iterator[bytes]:
        for one in self.given:
            written = io.BytesIO()
            _Pickler(written, protocol=5).dump((one, self.build(one)))
            yield written.getvalue()


class _Pickler(pickle.Pickler):
    """Writes tensors as arrays: torch's own way begins an archive for each."""

    def reducer_override(self, thing: Any) -> Any:
        """A tensor is made of its array again, everything else of what it says itself."""
        return (torch.from_numpy, (thing.numpy(),)) if isinstance(thing, Tensor) else NotImplemented
