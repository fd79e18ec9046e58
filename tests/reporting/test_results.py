"""Results of grades and comparisons over seeds, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.planning.state import CampaignState, replay
from raydistill.reporting.results import comparisons, grade_results, shared_grades, spread, suffixes


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


def test_comparison_is_mean_and_sample_deviation(compared: tuple[CampaignState, CampaignConfig]) -> None:
    """The population formula understates the spread of two seeds by a factor of 1.41."""
    rows = {(row.method, row.grade): row for row in comparisons(*compared)}
    assert list(rows) == [("every method", 0), ("pmd", 1), ("none", 1)]
    pmd = rows["pmd", 1]
    assert pmd.mrr.mean == pytest.approx(0.42)
    assert pmd.mrr.deviation == pytest.approx(math.sqrt(2 * 0.02**2))
    assert pmd.mrr.seeds == 2
    assert pmd.hits_at_10.mean == pytest.approx(0.67)
    assert pmd.kept is not None
    assert pmd.kept.mean == pytest.approx(0.84)


def test_what_all_methods_share_is_one_row(compared: tuple[CampaignState, CampaignConfig]) -> None:
    """Nineteen rows for one teacher; or a grade of every method for itself taken for a shared one because the grade above it is."""
    state, config = compared
    first, *rest = config.grades
    own = first.model_copy(update={"method": config.compare.methods[1]})  # type: ignore[union-attr]
    assert shared_grades(config) == 1
    assert shared_grades(config.model_copy(update={"grades": (own, first)})) == 2
    assert shared_grades(config.model_copy(update={"grades": (first, own)})) == 1
    assert shared_grades(config.model_copy(update={"grades": (own, own)})) == 3
    table = comparisons(state, config.model_copy(update={"grades": (own, *rest)}))
    assert [(row.method, row.grade, row.mrr.seeds) for row in table] == [("every method", 0, 2), ("every method", 1, 2)]


def test_size_and_time_stand_beside_what_they_bought(measured: tuple[CampaignState, CampaignConfig]) -> None:
    """A method that is better because it is larger, or took twice as long, and nobody can see it."""
    teacher, student = comparisons(*measured)
    assert (student.method, student.bytes, student.seconds) == ("pmd", 5000, 30.0)
    assert (teacher.method, teacher.seconds) == ("every method", 30.0)


def test_one_seed_has_no_deviation(compared: tuple[CampaignState, CampaignConfig]) -> None:
    """A deviation of zero from one seed would look like certainty."""
    [none] = [row for row in comparisons(*compared) if row.method == "none" and row.grade == 1]
    assert none.mrr == spread([0.30])
    assert none.mrr.deviation is None
    assert none.mrr.seeds == 1


def test_without_compare_there_are_no_comparisons(state: CampaignState, config: CampaignConfig) -> None:
    """A table of one method over one seed says nothing that the results do not."""
    assert comparisons(state, config) == []
