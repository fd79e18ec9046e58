from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from raydistill.training import clock
from raydistill.training.clock import Clock


def test_what_is_inside_a_part_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher that is counted for itself and again as a part of the forward pass: parts that add up to more than the step."""
    now = 0.0
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now))
    one = Clock()
    with one.part("forward"):
        now += 1.0
        with one.part("teacher"):
            now += 10.0
        now += 2.0
    now += 100.0
    with one.part("forward"):
        now += 0.5
    assert one.take() == {"forward": 3.5, "teacher": 10.0}
    assert one.take() == {}


def test_queued_work_is_waited_for_at_both_ends_of_a_part() -> None:
    """A device's work counted where somebody happens to wait for it."""
    waits: list[float] = []
    one = Clock(lambda: waits.append(time.perf_counter()))
    with pytest.raises(ValueError, match="broken"), one.part("data"):
        raise ValueError("broken")
    assert len(waits) == 2
    assert list(one.take()) == ["data"]
