"""Whole ladders, one after another, on a real cluster."""

from __future__ import annotations

import json
from pathlib import Path

import fakes
import pytest

from raydistill.errors import RunDirectoryError
from raydistill.orchestration.ladder_search import LADDERS, PARETO, LadderSearch

pytestmark = pytest.mark.ray


def test_ladders_share_their_teacher_and_the_unbeaten_ones_are_kept(cluster: None, tmp_path: Path) -> None:
    """Every ladder would train the teacher again; or the answer of a night's search be lost with the terminal."""
    ladders = {"ladders": 3, "grades": [1, 2], "depths": [1, 2, 3], "objectives": ["mrr", "bytes", "latency"]}
    config = fakes.campaign(ladders=ladders, resources={"backend": "inline"}, grades=[{"layers": 6}])
    root = tmp_path / "search"
    best = LadderSearch(config, root, fakes.workshop()).run()
    content = json.loads((root / PARETO).read_text())
    assert [one["number"] for one in content] == [0, 1, 2]
    assert [one["number"] for one in content if one["pareto"]] == [one.number for one in best]
    assert all(one["values"]["latency"] == one["grades"][-1]["layers"] for one in content)
    trained = [(grade, epoch) for one in sorted((root / LADDERS).iterdir()) for grade, _, epoch in fakes.trained(one)]
    assert [epoch for grade, epoch in trained if grade == "0-teacher"] == [1, 2, 3], "the teacher is trained once"
    with pytest.raises(RunDirectoryError, match="--resume"):
        LadderSearch(config, root, fakes.workshop()).run()
    before = len(trained)
    again = LadderSearch(config, root, fakes.workshop()).run(resume=True)
    assert [one.number for one in again] == [one.number for one in best]
    assert len([epoch for one in (root / LADDERS).iterdir() for _, _, epoch in fakes.trained(one)]) == before
