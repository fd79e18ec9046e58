"""One part of the benchmark as a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from raydistill.benchmarks.bench import Bench, Row
from raydistill.benchmarks.parts import GRAPHLESS, OVERHEADS
from raydistill.benchmarks.suite import ROWS
from raydistill.config.load import load_config
from raydistill.errors import ConfigError, DataError, OutOfMemoryError, RayDistillError, StorageError, TrialError
from raydistill.reporting.table import ABSENT, Table

LEFT_OUT = (
    ConfigError,
    DataError,
    StorageError,
    TrialError,
    OutOfMemoryError,
    torch.OutOfMemoryError,
    MemoryError,
    OSError,
)
"""What keeps a part from being measured and is no fault of the program: a configuration, a graph, a disk or a memory."""


def measured(
    part: str, config: str, overrides: Sequence[str], out: Path, turns: int, source: str | None
) -> Iterator[Row]:
    """Measure one part, row by row.

    Args:
        part: which.
        config: the campaign's file.
        overrides: of its values, as KEY=VALUE.
        out: where to write.
        turns: of each measurement.
        source: a public layout to prepare.

    Raises:
        RayDistillError: the configuration, its graph or its encoder cannot be read. What else keeps a part from being measured is its last row.
    """
    from raydistill.orchestration.workshop import survey

    campaign = load_config(config, overrides)
    ground = None if part in GRAPHLESS else survey(campaign)
    out.mkdir(parents=True, exist_ok=True)
    try:
        if ground is None or part in OVERHEADS:
            # Where Ray is not installed, the other parts are measured all the same.
            from raydistill.orchestration import overheads

            yield {"overhead": part, **overheads.measured(part, campaign, out)}  # type: ignore[arg-type]
        else:
            yield from ROWS[part](Bench(campaign, ground, out, turns, source))
    except LEFT_OUT as problem:
        # The other parts can be measured all the same.
        if isinstance(problem, RayDistillError):
            said, remedy = problem.received, problem.remedy
        else:
            said, remedy = str(problem) or type(problem).__name__, ""
        yield {part: f"left out: {said.splitlines()[0]}", "remedy": remedy}


def keep(part: str, rows: Sequence[Row], path: Path) -> None:
    """Write the rows of a part beside those of the others."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**found, part: list(rows)}, indent=2) + "\n", encoding="utf-8")


def table(part: str, rows: Sequence[Row]) -> Table:
    """Rows as a table; a figure that a row lacks is a dash."""
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    return Table(part, columns, tuple(tuple(_cell(row.get(name)) for name in columns) for row in rows))


def _cell(value: Any) -> str:
    if value is None:
        return ABSENT
    if not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}"
