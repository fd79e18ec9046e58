"""The collector is off while something is imported, and never stays off."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from raydistill.imports import uncollected


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    collects = gc.isenabled()
    gc.enable()
    yield
    if not collects:
        gc.disable()


def test_it_is_off_inside_and_on_behind():
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_fails_inside_leaves_it_on():
    @uncollected()
    def refused() -> None:
        assert not gc.isenabled()
        raise ImportError("no such package")

    for _ in range(2):
        with pytest.raises(ImportError, match="no such package"):
            refused()
        assert gc.isenabled()


def test_a_process_that_has_none_gets_none():
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()
    gc.enable()


def test_of_two_threads_whose_blocks_overlap_neither_leaves_it_off():
    inside, outlasts = threading.Event(), threading.Event()

    def second() -> None:
        with uncollected():
            inside.set()
            outlasts.wait(10)

    thread = threading.Thread(target=second)
    with uncollected():
        thread.start()
        assert inside.wait(10)
    outlasts.set()
    thread.join()
    assert gc.isenabled()
