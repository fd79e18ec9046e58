"""metrics.parquet: every report of every trial as one row, for notebooks and plots. Rebuilt from the state, never read back."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.orchestration.rundir import METRICS
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.state import CampaignState


def write_table(store: RunStore, state: CampaignState) -> None:
    """Write all reports so far.

    Raises:
        StorageError: there is no room.
    """
    sink = io.BytesIO()
    pq.write_table(table(state), sink)
    store.write(METRICS, sink.getvalue())


def table(state: CampaignState) -> pa.Table:
    """One row per report: where it belongs, then one column per metric. A metric that a report lacks is null."""
    records = sorted(state.trials.values(), key=lambda record: (state.lineages.index(record.lineage), *record.key[1:]))
    pairs = [(record, report) for record in records for report in record.reports]
    names = sorted({name for _, report in pairs for name in report["metrics"]})
    columns: dict[str, pa.Array] = {
        "lineage": pa.array([record.lineage for record, _ in pairs], pa.string()),
        "grade": pa.array([record.grade for record, _ in pairs], pa.int32()),
        "folder": pa.array([state.grades[record.grade] for record, _ in pairs], pa.string()),
        "trial": pa.array([record.number for record, _ in pairs], pa.int32()),
        "identity": pa.array([record.identity for record, _ in pairs], pa.string()),
        "reused": pa.array([record.reused_from is not None for record, _ in pairs], pa.bool_()),
    }
    kinds: dict[str, Any] = {
        "epoch": pa.int32(),
        "time": pa.float64(),
        "checkpoint": pa.string(),
        "digest": pa.string(),
    }
    columns |= {name: pa.array([report[name] for _, report in pairs], kind) for name, kind in kinds.items()}
    columns |= {name: pa.array([report["metrics"].get(name) for _, report in pairs], pa.float64()) for name in names}
    return pa.table(columns)
