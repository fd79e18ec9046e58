"""Results of grades, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.planning.state import CampaignState, replay
from raydistill.reporting.results import grade_results, suffixes


def test_result_belongs_to_the_promoted_trial(state: CampaignState, config: CampaignConfig) -> None:
    """Parameters of the last or the first trial beside the numbers of another one."""
    teacher, student = grade_results(state, config)
    assert (student.mask_ratio, student.layer_map, student.view) == (0.2, "uniform", "shared")
    assert (student.layers, student.epoch, student.valid_mrr) == (2, 1, 0.45)
    assert student.checkpoint == "/run/main/1/1/1"
    assert (teacher.layers, teacher.mask_ratio, teacher.layer_map, teacher.view) == (6, None, None, None)


def test_kept_is_the_share_of_the_teachers_test_mrr(state: CampaignState, config: CampaignConfig) -> None:
    """Validation MRR of one and test MRR of the other would flatter the student."""
    teacher, student = grade_results(state, config)
    assert teacher.kept == 1.0
    assert student.kept == pytest.approx(0.4 / 0.5)


def test_untested_grade_has_no_metrics(events: list[dict[str, Any]], config: CampaignConfig) -> None:
    """A grade that is promoted but not yet scored must not show zeros, nor break the table."""
    teacher, student = grade_results(replay(events[:-2]), config)
    assert student.metrics == {}
    assert student.kept is None
    assert student.layers == 2
    assert teacher.layers is None


def test_zero_teacher_leaves_no_share(events: list[dict[str, Any]], config: CampaignConfig) -> None:
    """A division by a teacher that found nothing."""
    events[-2]["metrics"]["test/both/mrr"] = 0.0
    assert [result.kept for result in grade_results(replay(events), config)] == [None, None]


def test_reranked_scores_are_kept_apart(events: list[dict[str, Any]], config: CampaignConfig) -> None:
    """A re-ranked number under a plain heading claims what the model did not do."""
    for event in events[-2:]:
        event["metrics"] |= {
            f"{name}+neighbors": value / 2 for name, value in event["metrics"].items() if name.startswith("test/")
        }
    state = replay(events)
    assert suffixes(state) == ["", "+neighbors"]
    assert grade_results(state, config)[1].metrics["mrr"] == 0.4
    assert grade_results(state, config, "+neighbors")[1].metrics["mrr"] == 0.2
