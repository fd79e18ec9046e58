"""Curves as SVG."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from raydistill.planning.state import CampaignState, replay
from raydistill.reporting.page import HEIGHT, MARGIN, WIDTH, curves


def points(svg: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'polyline points="([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())] for line in lines]


def test_curves_span_the_frame_and_rise_with_the_value(state: CampaignState) -> None:
    """In SVG y grows downwards: a curve drawn upside down shows the worst trial on top."""
    low, high = points(curves(state.of("main", 1)))
    floor, ceiling = HEIGHT - MARGIN, MARGIN
    assert low == [(MARGIN, floor), (WIDTH - MARGIN, pytest.approx(floor - (0.05 / 0.15) * (floor - ceiling), abs=0.1))]
    assert high[0] == (MARGIN, ceiling)
    assert high[1][1] > ceiling


def test_single_value_is_drawn_without_a_division_by_zero(events: list[dict[str, Any]]) -> None:
    """After the first epoch all values and all epochs are one."""
    [[(x, y)]] = points(curves(replay(events[:3]).of("main", 0)))
    assert (x, y) == (WIDTH / 2, HEIGHT / 2)


def test_epoch_without_validation_is_no_point(events: list[dict[str, Any]]) -> None:
    """NaN in a path makes browsers drop the whole curve."""
    events[2]["metrics"]["valid/both/mrr"] = math.nan
    svg = curves(replay(events).of("main", 0))
    assert "nan" not in svg
    assert [len(line) for line in points(svg)] == [1]


def test_grade_without_validation_says_so(events: list[dict[str, Any]]) -> None:
    """An empty frame looks like a broken page."""
    assert "No validation yet" in curves(replay(events[:2]).of("main", 0))
