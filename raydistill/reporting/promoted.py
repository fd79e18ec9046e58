"""Where the promoted checkpoints lie: what `evaluate`, `predict` and `export` are given."""

from __future__ import annotations

from raydistill.planning.state import CampaignState
from raydistill.reporting.table import Table


def promoted_table(state: CampaignState) -> Table:
    """One row per promoted checkpoint, teachers that were given included."""
    return Table("Promoted checkpoints", ("lineage", "grade", "checkpoint"), tuple(_rows(state)), left=3)


def promoted_lines(state: CampaignState) -> list[str]:
    """The same for a terminal, where a cell would break a path."""
    return [f"promoted {lineage} {grade}: {place}" for lineage, grade, place in _rows(state)]


def _rows(state: CampaignState) -> list[tuple[str, str, str]]:
    found = sorted(state.promotions.items())
    return [(lineage, state.folder(grade), promotion.checkpoint) for (lineage, grade), promotion in found]
