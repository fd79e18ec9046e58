"""RUN/report.html: one page that needs nothing but itself, with the same tables as everywhere and a curve per trial."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from raydistill.planning.records import MRR, TrialRecord
from raydistill.planning.state import CampaignState
from raydistill.reporting.table import Table, number

WIDTH, HEIGHT, MARGIN = 640, 260, 44
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8e5ea2", "#b8860b", "#5f6b6d", "#d1495b", "#00798c")

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #8884; text-align: left; white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { max-width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
"""


def page(title: str, tables: Sequence[Table], trials: Mapping[tuple[str, int], Table], state: CampaignState) -> str:
    """The whole page.

    Args:
        title: name of the run.
        tables: the final tables.
        trials: the table of trials of each (lineage, grade).
        state: the campaign, for the curves.
    """
    done = "complete" if state.complete else "not complete"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>The campaign is {done}; its ledger holds {state.events} events.</p>",
    ]
    parts += [table.as_html() for table in tables if table.rows]
    for key, table in trials.items():
        parts += [f"<h2>{html.escape(table.title)}</h2>", curves(state.of(*key)), table.as_html()]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def curves(records: Sequence[TrialRecord]) -> str:
    """Validation MRR over epochs as an inline SVG, one line per trial; empty where nothing was validated."""
    lines = {record.number: _points(record) for record in records}
    values = [value for points in lines.values() for _, value in points]
    if not values:
        return "<p>No validation yet.</p>"
    last = max(epoch for points in lines.values() for epoch, _ in points)
    low, high = min(values), max(values)
    low, high = (low, high) if high > low else (low - 0.01, high + 0.01)

    def place(epoch: float, value: float) -> tuple[float, float]:
        across = (epoch - 1) / (last - 1) if last > 1 else 0.5
        up = (value - low) / (high - low)
        return MARGIN + across * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN)

    drawn = [_line(number_, [place(*point) for point in points]) for number_, points in lines.items() if points]
    floor = HEIGHT - MARGIN
    axes = (
        f'<path d="M{MARGIN} {MARGIN}V{floor}H{WIDTH - MARGIN}" fill="none" stroke="currentColor" opacity=".5"/>'
        f'<text x="4" y="{MARGIN + 4}">{number(high)}</text><text x="4" y="{floor}">{number(low)}</text>'
        f'<text x="{MARGIN}" y="{floor + 18}">epoch 1</text>'
        f'<text x="{WIDTH - MARGIN}" y="{floor + 18}" text-anchor="end">epoch {last}</text>'
        f'<text x="{MARGIN}" y="{MARGIN - 14}">validation MRR, filtered, both directions</text>'
    )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="validation MRR">{axes}{"".join(drawn)}</svg>'


def _points(record: TrialRecord) -> list[tuple[int, float]]:
    pairs = ((int(report["epoch"]), float(report["metrics"].get(MRR, math.nan))) for report in record.reports)
    return [(epoch, value) for epoch, value in pairs if math.isfinite(value)]


def _line(trial: int, points: Sequence[tuple[float, float]]) -> str:
    colour = COLOURS[trial % len(COLOURS)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points)
    x, y = points[-1]
    label = f'<text x="{x + 6:.1f}" y="{y + 4:.1f}">{trial}</text>'
    title = f"<title>trial {trial}</title>"
    return f'<g>{title}<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>{dots}{label}</g>'
