"""The report of a campaign: final table, comparison over seeds, trials of a grade; as text, Markdown, JSON and a page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raydistill.config.schema import CampaignConfig
from raydistill.planning.records import TrialRecord
from raydistill.planning.state import CampaignState
from raydistill.reporting.assistants import assistant_table, choices
from raydistill.reporting.comparison import Comparison, Difference, Spread, comparisons
from raydistill.reporting.page import page
from raydistill.reporting.promoted import promoted_table
from raydistill.reporting.results import GradeResult, grade_results, suffixes
from raydistill.reporting.table import ABSENT, Table, count, number, plain, share, size

METRICS = {
    "MR": ("mr", 1),
    "MRR": ("mrr", 3),
    "Hits@1": ("hits@1", 3),
    "Hits@3": ("hits@3", 3),
    "Hits@10": ("hits@10", 3),
}


def report_tables(state: CampaignState, config: CampaignConfig) -> list[Table]:
    """The final tables: for each way of scoring the results and the comparison over seeds, then the choices of assistants."""
    tables = []
    for suffix in suffixes(state):
        results = grade_results(state, config, suffix)
        tables.append(result_table(results, suffix, with_lineage=len(state.lineages) > 1))
        if compared := comparison_table(state, config, suffix):
            tables.append(compared)
    if chosen := assistant_table(state):
        tables.append(chosen)
    return tables


def result_table(results: Sequence[GradeResult], suffix: str = "", *, with_lineage: bool = False) -> Table:
    """One row per promoted student."""
    lineage = ("lineage",) if with_lineage else ()
    names = (*lineage, "grade", "layers", "parameters", "size", "mask ratio", "layer map", "view", *METRICS, "MRR kept")
    rows = tuple(
        (
            *((result.lineage,) if with_lineage else ()),
            result.folder,
            ABSENT if result.layers is None else str(result.layers),
            count(result.parameters),
            size(result.bytes),
            plain(result.mask_ratio),
            plain(result.layer_map),
            plain(result.view),
            *(number(result.metrics.get(name), digits) for name, digits in METRICS.values()),
            share(result.kept),
        )
        for result in results
    )
    return Table(f"Test, filtered, realistic ranks, both directions{_how(suffix)}", names, rows, left=1 + with_lineage)


def comparison_table(state: CampaignState, config: CampaignConfig, suffix: str = "") -> Table | None:
    """Method by grade: mean and standard deviation over seeds, and differences to a student of the same shape without a teacher where there are any. None where nothing is compared."""
    compared = comparisons(state, config, suffix)
    paired = any(row.mrr_less_baseline for row in compared)
    rows = tuple(
        (
            f"{row.method}: {row.settings}" if row.settings else row.method,
            row.folder,
            str(row.mrr.seeds),
            _spread(row.mrr),
            _spread(row.hits_at_10),
            _spread(row.kept, 100, " %"),
            size(row.bytes),
            ABSENT if row.seconds is None else f"{row.seconds:,.0f} s",
            *(_against(row) if paired else ()),
        )
        for row in compared
    )
    differences = ("against", "MRR difference", "Hits@10 difference") if paired else ()
    columns = ("method", "grade", "seeds", "MRR", "Hits@10", "MRR kept", "size", "training", *differences)
    how = (
        "; differences seed by seed, to a student of the same shape without a teacher: mean, and seeds above 0"
        if paired
        else ""
    )
    title = f"Test, filtered, realistic ranks{_how(suffix)}: mean ± standard deviation over seeds{how}"
    return Table(title, columns, rows, left=2) if rows else None


def trial_table(state: CampaignState, lineage: str, grade: int) -> Table:
    """The trials of one grade, best first, the promoted one marked."""
    records = sorted(state.of(lineage, grade), key=lambda one: (-(one.best_mrr or -1.0), one.number))
    searched = sorted({name for record in records for name in record.parameters})
    promotion = state.promotions.get((lineage, grade))
    rows = tuple(
        (
            str(record.number),
            "promoted" if promotion is not None and record.identity == promotion.identity else _status(record),
            *(plain(record.parameters.get(name)) for name in searched),
            f"{len(record.reports)}/{record.epochs}",
            ABSENT if record.best_epoch is None else str(record.best_epoch),
            number(record.best_mrr, 4),
        )
        for record in records
    )
    folder = state.folder(grade)
    columns = ("trial", "status", *searched, "epochs", "best epoch", "valid MRR")
    return Table(f"{lineage} {folder}: trials", columns, rows, left=2 + len(searched))


def report_markdown(state: CampaignState, config: CampaignConfig) -> str:
    """All final tables as Markdown, and where the promoted checkpoints are."""
    return "\n".join(table.as_markdown() for table in (*report_tables(state, config), promoted_table(state)))


def report_json(state: CampaignState, config: CampaignConfig) -> dict[str, Any]:
    """All results at full precision, in types JSON knows."""
    scored = {
        suffix.removeprefix("+") or "plain": {
            "grades": [asdict(result) for result in grade_results(state, config, suffix)],
            "comparisons": [asdict(row) for row in comparisons(state, config, suffix)],
        }
        for suffix in suffixes(state)
    }
    assistants = [one.row for one in choices(state)]
    report: dict[str, Any] = finite(
        {
            "complete": state.complete,
            "tie_rule": "realistic",
            "filtered": True,
            "results": scored,
            "assistants": assistants,
        }
    )
    return report


def state_json(state: CampaignState) -> dict[str, Any]:
    """Everything that happened, in types JSON knows."""
    content: dict[str, Any] = finite(
        {
            "complete": state.complete,
            "config_fingerprint": state.config_fingerprint,
            "lineages": list(state.lineages),
            "grades": list(state.grades),
            "events": state.events,
            "trials": [_trial(record) for record in state.trials.values()],
            "promotions": [asdict(promotion) for promotion in state.promotions.values()],
            "tests": [{"lineage": key[0], "grade": key[1], "metrics": value} for key, value in state.tests.items()],
        }
    )
    return content


def write_report(state: CampaignState, config: CampaignConfig, run_dir: str | Path) -> Path:
    """Write `report.html`, `report.md` and `report.json` into a run directory and return the page's path."""
    folder = Path(run_dir)
    for name, text in report_files(folder.name, state, config).items():
        aside = folder / f".{name}.part"
        aside.write_text(text, encoding="utf-8")
        aside.replace(folder / name)
    return folder / "report.html"


def report_files(name: str, state: CampaignState, config: CampaignConfig) -> dict[str, str]:
    """The report as files by name; `name` is the run's."""
    curves = {key: trial_table(state, *key) for key in sorted({record.key[:2] for record in state.trials.values()})}
    return {
        "report.html": page(name, [*report_tables(state, config), promoted_table(state)], curves, state),
        "report.md": report_markdown(state, config),
        "report.json": json.dumps(report_json(state, config), indent=2, allow_nan=False) + "\n",
    }


def finite(value: Any) -> Any:
    """A copy in which NaN and infinity are null, because JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value


def _status(record: TrialRecord) -> str:
    return f"{record.status}, freed" if record.freed else record.status


def _trial(record: TrialRecord) -> dict[str, Any]:
    return {
        **asdict(record),
        "rejected": sorted(record.rejected),
        "best_mrr": record.best_mrr,
        "best_epoch": record.best_epoch,
        "best_checkpoint": record.best_checkpoint,
    }


def _how(suffix: str) -> str:
    return f", re-ranked with {suffix.removeprefix('+')}" if suffix else ""


def _spread(value: Spread | None, factor: float = 1.0, unit: str = "") -> str:
    if value is None:
        return ABSENT
    digits = 1 if unit else 3
    deviation = "" if value.deviation is None else f" ± {number(factor * value.deviation, digits)}"
    return f"{number(factor * value.mean, digits)}{deviation}{unit}"


def _against(row: Comparison) -> tuple[str, str, str]:
    return row.baseline or ABSENT, _difference(row.mrr_less_baseline), _difference(row.hits_at_10_less_baseline)


def _difference(value: Difference | None) -> str:
    if value is None or not math.isfinite(value.mean):
        return ABSENT
    return f"{value.mean:+.4f} ({value.above} of {value.seeds})"
