"""Every part of the benchmark that needs no Ray, from its configuration to its rows, on a tiny graph."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from raydistill.benchmarks import graph_rows, step_rows, tables
from raydistill.benchmarks.bench import Bench, Row
from raydistill.benchmarks.parts import MEASURED
from raydistill.benchmarks.tables import measured
from raydistill.errors import DataError

PARTS_WITHOUT_RAY = tuple(part for part in MEASURED if part != "large")


@pytest.mark.parametrize("part", PARTS_WITHOUT_RAY)
def test_every_part_can_be_measured(
    part: str,
    dataset_folder: Path,
    encoder_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part that nobody has run since it was changed, in a table that takes an hour."""
    content = {
        "data": {"path": str(dataset_folder), "max_tokens": 32},
        "encoder": {"name": str(encoder_folder("bert")), "shared_towers": True},
        "grades": [{"layers": 1, "mask_ratio": 0.2}],
        "view": "shared",
        "training": {"epochs": 1, "batch_size": 4, "precision": "fp32"},
    }
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(graph_rows, "ENTITIES", (50, 200))
    monkeypatch.setattr(step_rows, "GROWN", ((4, 16), (8, 32)))
    rows = list(measured(part, str(tmp_path / "campaign.yaml"), [], tmp_path / "out", 1, None))
    figures = [value for row in rows for value in row.values() if isinstance(value, (int, float))]
    assert figures
    assert all(math.isfinite(value) for value in figures)
    assert json.dumps(rows)
    assert len({tuple(row.values())[:2] for row in rows}) == len(rows), "two rows of one name"


def test_part_that_cannot_be_measured_is_left_out_with_a_word(
    dataset_folder: Path, encoder_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full in the middle of the one command: five parts that could be measured are not."""

    def full(bench: Bench) -> Iterator[Row]:
        yield {"large": "first", "count": 1.0}
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tables, "ROWS", {"large": full})
    content = {
        "data": {"path": str(dataset_folder), "max_tokens": 32},
        "encoder": {"name": str(encoder_folder("bert"))},
        "grades": [{"layers": 1}],
    }
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(content))
    rows = list(measured("large", str(tmp_path / "campaign.yaml"), [], tmp_path / "out", 1, None))
    assert rows == [
        {"large": "first", "count": 1.0},
        {"large": "left out: [Errno 28] No space left on device", "remedy": ""},
    ]
    with pytest.raises(DataError):
        list(measured("large", str(tmp_path / "campaign.yaml"), [f"data.path={tmp_path}"], tmp_path / "out", 1, None))


def test_steps_that_nobody_teaches_have_no_naive_twin(
    dataset_folder: Path, encoder_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """An assertion, which speaks of a fault of the program."""
    content = {
        "data": {"path": str(dataset_folder), "max_tokens": 32},
        "encoder": {"name": str(encoder_folder("bert"))},
        "grades": [{"layers": 1}],
        "method": {"name": "none"},
        "training": {"epochs": 1, "batch_size": 4, "precision": "fp32"},
    }
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(content))
    for part in ("steps", "profile", "savings"):
        rows = list(measured(part, str(tmp_path / "campaign.yaml"), [], tmp_path / "out", 1, None))
        assert any(isinstance(value, float) for row in rows for value in row.values())
        assert not any("remedy" in row for row in rows)
