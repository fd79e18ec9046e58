"""The parts of the benchmark that need no Ray, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from raydistill.benchmarks.bench import Bench, Row
from raydistill.benchmarks.graph_rows import large_rows, ranking_rows, text_rows
from raydistill.benchmarks.step_rows import (
    contrastive_rows,
    epoch_rows,
    growth_rows,
    kept_rows,
    profile_rows,
    saving_rows,
    step_rows,
)

ROWS: Mapping[str, Callable[[Bench], Iterator[Row]]] = {
    "steps": step_rows,
    "kept": kept_rows,
    "epochs": epoch_rows,
    "profile": profile_rows,
    "savings": saving_rows,
    "contrastive": contrastive_rows,
    "ranking": ranking_rows,
    "texts": text_rows,
    "growth": growth_rows,
    "large": large_rows,
}
"""What gives the rows of each part, as `parts.MEASURED` names them."""
