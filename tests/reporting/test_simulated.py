"""What would a ladder take, asked of runs that have an answer and of some that have none."""

from __future__ import annotations

from typing import Any

import pytest

from raydistill.errors import ConfigError
from raydistill.planning.state import CampaignState, replay
from raydistill.reporting.simulated import simulated_lines


@pytest.mark.parametrize("lineage", ["pmd-sed0", "main"])
def test_lineage_that_is_not_there_is_refused_with_those_that_are(
    measured: tuple[CampaignState, object], lineage: str
) -> None:
    """A mistyped name: "let it go on", as if the run were not over."""
    with pytest.raises(ConfigError, match=f"lineage {lineage} of a run that has pmd-seed0, pmd-seed1"):
        simulated_lines(measured[0], lineage, [1], 1)


def test_run_that_has_not_begun_is_refused() -> None:
    """Also a search over ladders, whose own ledger has no campaign: an index that is out of range."""
    with pytest.raises(ConfigError, match="has none yet"):
        simulated_lines(replay([]), None, [1], 1)


def test_first_lineage_is_meant_unless_one_is_named(events: list[dict[str, Any]]) -> None:
    """A run without a comparison has one, and nobody knows its name."""
    state = replay(events)
    lines = simulated_lines(state, None, [1, 8], 1)
    assert lines == simulated_lines(state, "main", [1, 8], 1)
    assert lines[0].startswith("0-teacher: 2 epochs of ")
