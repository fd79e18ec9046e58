"""Every part of the benchmark that needs no Ray, from its configuration to its rows, on a tiny graph."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raydistill.benchmarks import graph_rows, step_rows, tables
from raydistill.benchmarks.bench import Bench, Row
from raydistill.benchmarks.parts import MEASURED
from raydistill.benchmarks.tables import measured
from raydistill.errors import DataError

PARTS_WITHOUT_RAY = tuple(part for part in MEASURED if part != "large")


@pytest.mark.parametrize("part", PARTS_WITHOUT_RAY)
def test_every_part_can_be_measured(
    part: str, tiny_campaign: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that nobody has run since it was changed, in a table that takes an hour."""
    file = tiny_campaign(grades=[{"layers": 1, "mask_ratio": 0.2}], view="shared")
    monkeypatch.setattr(graph_rows, "ENTITIES", (50, 200))
    monkeypatch.setattr(step_rows, "GROWN", ((4, 16), (8, 32)))
    rows = list(measured(part, file, [], tmp_path / "out", 1, None))
    figures = [value for row in rows for value in row.values() if isinstance(value, (int, float))]
    assert figures
    assert all(math.isfinite(value) for value in figures)
    assert json.dumps(rows)
    assert len({tuple(row.values())[:2] for row in rows}) == len(rows), "two rows of one name"


def test_part_that_cannot_be_measured_is_left_out_with_a_word(
    tiny_campaign: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full in the middle of the one command: five parts that could be measured are not."""

    def full(bench: Bench) -> Iterator[Row]:
        yield {"large": "first", "count": 1.0}
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tables, "ROWS", {"large": full})
    file = tiny_campaign()
    rows = list(measured("large", file, [], tmp_path / "out", 1, None))
    assert rows == [
        {"large": "first", "count": 1.0},
        {"large": "left out: [Errno 28] No space left on device", "remedy": ""},
    ]
    with pytest.raises(DataError):
        list(measured("large", file, [f"data.path={tmp_path}"], tmp_path / "out", 1, None))


def test_part_for_which_there_is_no_memory_is_left_out(
    tiny_campaign: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that says nothing, and is one more error when its first line is looked for."""

    def full(bench: Bench) -> Iterator[Row]:
        raise MemoryError
        yield {}

    monkeypatch.setattr(tables, "ROWS", {"large": full})
    rows = list(measured("large", tiny_campaign(), [], tmp_path / "out", 1, None))
    assert rows == [{"large": "left out: MemoryError", "remedy": ""}]


def test_steps_that_nobody_teaches_have_no_naive_twin(tiny_campaign: Callable[..., str], tmp_path: Path) -> None:
    """An assertion, which speaks of a fault of the program."""
    file = tiny_campaign(method={"name": "none"})
    for part in ("steps", "profile", "savings"):
        rows = list(measured(part, file, [], tmp_path / "out", 1, None))
        assert any(isinstance(value, float) for row in rows for value in row.values())
        assert not any("remedy" in row for row in rows)
