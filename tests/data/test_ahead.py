from __future__ import annotations

import threading
import time

import pytest

from raydistill.data.ahead import built_ahead


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_come_in_order_whoever_builds_them(ahead: bool) -> None:
    """A batch lost at the end, built twice, or out of order."""
    assert list(built_ahead(range(5), lambda one: one * one, ahead=ahead)) == [(n, n * n) for n in range(5)]
    assert list(built_ahead([], lambda one: one, ahead=ahead)) == []


def test_next_batch_is_built_while_the_current_one_is_used() -> None:
    """A device that waits for every batch; or a queue that fills memory with batches nobody uses yet."""
    built: list[int] = []
    ready = threading.Event()

    def build(one: int) -> int:
        built.append(one)
        if one == 1:
            ready.set()
        return one

    batches = built_ahead(range(10), build, ahead=True)
    assert next(batches) == (0, 0)
    assert ready.wait(5)
    time.sleep(0.05)
    assert built == [0, 1]
    batches.close()  # type: ignore[attr-defined]


def test_error_of_a_batch_is_raised_where_its_turn_is() -> None:
    """An error lost in a thread: an epoch that ends early without a word."""

    def build(one: int) -> int:
        if one == 2:
            raise ValueError("broken batch")
        return one

    batches = built_ahead(range(4), build, ahead=True)
    assert [next(batches), next(batches)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="broken batch"):
        next(batches)
