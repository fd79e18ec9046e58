from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized

import pytest
import torch

from raydistill.data.ahead import BATCHES_AHEAD, built_ahead


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_come_in_order_whoever_builds_them(ahead: bool) -> None:
    """A batch lost at the end, built twice, or out of order."""
    assert list(built_ahead(range(5), lambda one: one * one, ahead=ahead)) == [(n, n * n) for n in range(5)]
    assert list(built_ahead([], lambda one: one, ahead=ahead)) == []


def test_tensors_of_every_kind_arrive_as_they_were_built() -> None:
    """Numbers that change on their way from one process to the other; and tensors that cannot be written to."""
    built = {
        "tokens": torch.arange(6).view(2, 3).T,
        "times": torch.rand(4),
        "valid": torch.tensor([True, False]),
        "none": torch.zeros(0, 2),
        "one": torch.tensor(7.0),
    }
    ((_, arrived),) = built_ahead([0], lambda _: built, ahead=True)
    for name, tensor in built.items():
        assert arrived[name].dtype == tensor.dtype
        assert torch.equal(arrived[name], tensor)
        arrived[name].zero_()


def test_another_process_builds_a_few_batches_and_leaves_randomness_alone() -> None:
    """A device that waits for every batch; a queue that fills memory with batches nobody uses yet; dropout that depends on who builds."""
    built: Synchronized[int] = multiprocessing.get_context("fork").Value("i", 0)

    def build(one: int) -> int:
        built.value = one + 1
        return os.getpid()

    before = torch.get_rng_state()
    batches = built_ahead(range(100), build, ahead=True)
    assert next(batches)[1] != os.getpid()
    deadline = time.monotonic() + 60
    while built.value < 1 + BATCHES_AHEAD and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert built.value == 1 + BATCHES_AHEAD
    assert torch.equal(torch.get_rng_state(), before)
    assert len(list(batches)) == 99


def test_process_ends_with_whoever_stops_listening() -> None:
    """A process for each epoch that was left early."""
    batches = built_ahead(range(100), lambda _: os.getpid(), ahead=True)
    builder = next(batches)[1]
    assert isinstance(batches, Iterator)
    batches.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 60
    while os.path.exists(f"/proc/{builder}") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{builder}")


def test_error_of_a_batch_is_raised_where_its_turn_is() -> None:
    """An error lost in a process: an epoch that ends early without a word."""

    def build(one: int) -> int:
        if one == 2:
            raise ValueError("broken batch")
        return one

    batches = built_ahead(range(4), build, ahead=True)
    assert [next(batches), next(batches)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="broken batch"):
        next(batches)
