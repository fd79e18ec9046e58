"""The table of a search over ladders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raydistill.reporting.table import ABSENT, Table, number, plain

MEBIBYTE = 2**20


def ladder_table(ladders: Sequence[Mapping[str, Any]]) -> Table:
    """One row per ladder, those that none beats first, then by validation MRR.

    Args:
        ladders: what pareto.json holds.
    """
    ranked = sorted(ladders, key=lambda one: (not one["pareto"], -one["values"].get("mrr", 0.0), one["number"]))
    columns = (
        "ladder",
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
    )


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    grades, values = one["grades"], one["values"]
    size = values.get("bytes")
    return (
        f"{one['number']:04d}",
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
