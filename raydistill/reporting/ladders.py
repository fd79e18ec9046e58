"""A search over ladders: its table, and how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from raydistill.planning.state import CampaignState
from raydistill.reporting.progress import running_view
from raydistill.reporting.table import ABSENT, Table, number, plain

MEBIBYTE = 2**20


def search_view(
    ladders: Sequence[Mapping[str, Any]], wanted: int, running: Mapping[int, CampaignState]
) -> RenderableType:
    """Headline, the trials of ladders that run, why others failed, and the table of all.

    Args:
        ladders: as for `ladder_table`.
        wanted: ladders to be run.
        running: campaigns of those that run, by number.
    """
    parts: list[RenderableType] = [Text(search_headline(ladders, wanted), style="bold")]
    for place, state in running.items():
        parts += [Text(f"ladder {place:04d}"), running_view(state)]
    failed = (one for one in ladders if one["status"] == "failed")
    parts += [Text(f"ladder {one['number']:04d} failed: {one['reason']}") for one in failed]
    return Group(*parts, ladder_table(ladders).as_rich()) if ladders else Group(*parts)


def search_headline(ladders: Sequence[Mapping[str, Any]], wanted: int) -> str:
    """How far the search is, in one line."""
    counts = Counter(one["status"] for one in ladders)
    said = ", ".join(f"{counts[status]} {status}" for status in ("finished", "failed", "running") if counts[status])
    return f"{counts['finished'] + counts['failed']} of {wanted} ladders ended; {said or 'none begun yet'}"


def ladder_table(ladders: Sequence[Mapping[str, Any]]) -> Table:
    """One row per ladder, those that none beats first, then by validation MRR.

    Args:
        ladders: what pareto.json holds; those that run may be among them.
    """
    ranked = sorted(ladders, key=lambda one: (not one["pareto"], -one["values"].get("mrr", 0.0), one["number"]))
    columns = (
        "ladder",
        "status",
        "layers",
        "mask ratios",
        "layer maps",
        "α",
        "β",
        "valid MRR",
        "size",
        "ms per query",
        "unbeaten",
    )
    return Table(
        "ladders (validation MRR and size of the smallest student; unbeaten: none is as good in all and better in one)",
        columns,
        tuple(_row(one) for one in ranked),
        left=2,
    )


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    grades, values = one["grades"], one["values"]
    size = values.get("bytes")
    return (
        f"{one['number']:04d}",
        one["status"],
        " ".join(str(grade["layers"]) for grade in grades),
        " ".join(plain(grade["mask_ratio"]) for grade in grades),
        " ".join(plain(grade["layer_map"]) for grade in grades),
        plain(one["alpha"]),
        plain(one["beta"]),
        number(values.get("mrr"), 4),
        ABSENT if size is None else f"{size / MEBIBYTE:.1f} MiB",
        number(values.get("latency"), 2),
        "yes" if one["pareto"] else "",
    )
