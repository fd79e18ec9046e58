"""Comparisons over seeds, against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from raydistill.config.load import parse_config
from raydistill.config.schema import CampaignConfig
from raydistill.planning.state import CampaignState
from raydistill.reporting.comparison import Difference, comparisons, shared_grades, spread
from raydistill.reporting.report import comparison_table, report_json
from raydistill.reporting.settings import settings_of

Compared = tuple[CampaignState, CampaignConfig]
Race = Callable[..., Compared]
SMALL = {"name": "dq", "prediction": 0, "attention": 0, "hidden": 0}
"""A student of eight bits that no teacher tells anything."""
PMD_AND_NONE = [{"name": "pmd"}, {"name": "none"}]


def differences(compared: Compared, method: str) -> tuple[Difference | None, Difference | None]:
    """Of one method's students, in MRR and Hits@10."""
    [row] = [row for row in comparisons(*compared) if row.method == method and row.grade == 1]
    return row.mrr_less_baseline, row.hits_at_10_less_baseline


def cells(compared: Compared, method: str) -> tuple[str, str, str]:
    """What the table has in its last three columns for one method's students."""
    table = comparison_table(*compared)
    assert table is not None
    assert table.columns[-3:] == ("against", "MRR difference", "Hits@10 difference")
    [row] = [row for row in table.rows if row[0].partition(":")[0] == method and row[1] == "1-layers2"]
    return row[-3], row[-2], row[-1]


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


def test_differences_are_paired_seed_by_seed(race: Race) -> None:
    """Means that are told apart, 0.42 and 0.41, where one good teacher made both: of three seeds the method is ahead in one."""
    compared = race(PMD_AND_NONE, {"pmd": [0.30, 0.40, 0.56], "none": [0.31, 0.42, 0.50]})
    mrr, hits = differences(compared, "pmd")
    assert mrr is not None
    assert hits is not None
    assert (mrr.mean, mrr.above, mrr.seeds) == (pytest.approx((-0.01 - 0.02 + 0.06) / 3), 1, 3)
    assert (hits.mean, hits.above, hits.seeds) == (pytest.approx(0.01), 1, 3)
    assert cells(compared, "pmd") == ("none", "+0.0100 (1 of 3)", "+0.0100 (1 of 3)")
    behind = race(PMD_AND_NONE, {"pmd": [0.30, 0.40, 0.50], "none": [0.30, 0.42, 0.503]})
    assert cells(behind, "pmd")[1] == "-0.0077 (0 of 3)"


def test_seed_of_one_method_alone_is_no_pair(race: Race) -> None:
    """A mean over three seeds less a mean over two, which is the third seed's teacher more than anything."""
    for students in (
        {"pmd": [0.30, 0.40, 0.90], "none": [0.28, 0.36, None]},
        {"pmd": [0.30, 0.40, None], "none": [0.28, 0.36, 0.10]},
        {"pmd": [0.30, None, 0.40], "none": [0.28, 0.99, 0.36]},
    ):
        mrr, _ = differences(race(PMD_AND_NONE, students), "pmd")
        assert mrr is not None
        assert (mrr.mean, mrr.above, mrr.seeds) == (pytest.approx(0.03), 2, 2)


def test_nothing_in_common_is_no_difference(race: Race) -> None:
    """A difference of zero, or a table that breaks, while the baseline is still trained."""
    compared = race(PMD_AND_NONE, {"pmd": [0.30, None], "none": [None, 0.36]})
    assert differences(compared, "pmd") == (None, None)
    table = comparison_table(*compared)
    assert table is not None
    assert table.columns[-1] == "training"


def test_baseline_and_shared_grades_are_ahead_of_nobody(race: Race) -> None:
    """A row of zeros under itself, or a teacher that is compared with itself."""
    compared = race(PMD_AND_NONE, {"pmd": [0.30, 0.40], "none": [0.28, 0.36]})
    teacher, student, none = comparisons(*compared)
    assert (teacher.method, student.method, none.method) == ("every method", "pmd", "none")
    for row in (teacher, none):
        assert (row.mrr_less_baseline, row.hits_at_10_less_baseline) == (None, None)
    assert cells(compared, "none") == ("–", "–", "–")


def test_one_seed_is_a_difference_of_one(race: Race) -> None:
    """A first look at one seed: the difference is there, and says of how many it is."""
    compared = race(PMD_AND_NONE, {"pmd": [0.40], "none": [0.38]})
    assert cells(compared, "pmd") == ("none", "+0.0200 (1 of 1)", "+0.0200 (1 of 1)")


def test_without_a_baseline_there_are_no_such_columns(race: Race) -> None:
    """Empty columns, where nothing that was compared goes without a teacher."""
    compared = race([{"name": "pmd"}, {"name": "self-feature"}], {"pmd": [0.30, 0.40], "self-feature": [0.28, 0.36]})
    table = comparison_table(*compared)
    assert table is not None
    assert table.columns[-1] == "training"
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert "seed by seed" not in table.title
    assert differences(compared, "pmd") == (None, None)


def test_each_shape_has_its_own_baseline(race: Race) -> None:
    """What eight bits cost is taken for what a method is worth: in eight bits 0.30 is more than 0.27, and not less than 0.40."""
    methods = [{"name": "none"}, SMALL, {"name": "dq"}, {"name": "pmd"}, {"name": "homodistil", "width": 288}]
    mrrs = {"none": [0.40], "dq1": [0.27], "dq2": [0.30], "pmd": [0.45], "homodistil": [0.20]}
    compared = race(methods, mrrs, {"dq1": [1000.0], "dq2": [1000.5], "homodistil": [900.0]})
    rows = {row.method: row.baseline for row in comparisons(*compared) if row.grade == 1}
    assert rows == {"none": None, "dq1": "none", "dq2": "dq1", "pmd": "none", "homodistil": None}
    assert cells(compared, "pmd")[:2] == ("none", "+0.0500 (1 of 1)")
    assert cells(compared, "dq2")[:2] == ("dq1", "+0.0300 (1 of 1)")
    assert cells(compared, "homodistil") == ("–", "–", "–")


def test_a_baseline_shows_what_its_shape_costs(race: Race) -> None:
    """The difference between eight bits and thirty-two is in no row, because neither has a teacher."""
    compared = race([{"name": "none"}, SMALL], {"none": [0.40], "dq": [0.27]}, {"dq": [1000.0]})
    assert cells(compared, "dq")[:2] == ("none", "-0.1300 (0 of 1)")


def test_a_combination_is_measured_against_the_shape_of_its_part(race: Race) -> None:
    """PMD in eight bits against a student of thirty-two, or against nothing."""
    both = {"name": "combined", "parts": [{"name": "pmd"}, SMALL]}
    compared = race([{"name": "none"}, SMALL, both], {"none": [0.4], "dq": [0.3], "pmd+dq": [0.35]})
    assert cells(compared, "pmd+dq")[:2] == ("dq", "+0.0500 (1 of 1)")


def test_as_many_bytes_are_not_the_same_format(race: Race) -> None:
    """Ranges of activations weigh nothing: sixteen bits of them are taken for eight."""
    compared = race([SMALL, {"name": "dq", "activation_bits": 16}], {"dq1": [0.3], "dq2": [0.4]})
    assert [row.baseline for row in comparisons(*compared) if row.grade == 1] == [None, None]


@pytest.mark.parametrize(("bytes_", "same"), [(1000.9, True), (1001.2, False), (998.5, False)])
def test_size_is_the_same_up_to_what_a_file_says_of_itself(race: Race, bytes_: float, same: bool) -> None:
    """A header of a few bytes more that leaves a student without a baseline; or a student of another depth that has one."""
    compared = race(PMD_AND_NONE, {"pmd": [0.40], "none": [0.38]}, {"pmd": [bytes_], "none": [1000.0]})
    assert (differences(compared, "pmd")[0] is not None) is same


def test_seeds_whose_students_are_of_other_sizes_are_no_pairs(race: Race) -> None:
    """An assistant that is deeper in one seed: all seeds lose their baseline, or three layers are measured against two."""
    mrrs, sizes = {"pmd": [0.30, 0.40, 0.90], "none": [0.28, 0.36, 0.30]}, [1000.0, 1000.0, 1500.0]
    mrr, _ = differences(race(PMD_AND_NONE, mrrs, {"pmd": sizes, "none": [1000.0] * 3}), "pmd")
    assert mrr is not None
    assert (mrr.mean, mrr.above, mrr.seeds) == (pytest.approx(0.03), 2, 2)


def test_first_of_two_baselines_is_the_one(race: Race) -> None:
    """The last one, or a mean of both."""
    methods = [SMALL, SMALL | {"contrastive": 2}, {"name": "dq"}]
    compared = race(methods, {"dq1": [0.3], "dq2": [0.2], "dq3": [0.4]})
    assert [row.baseline for row in comparisons(*compared) if row.grade == 1] == [None, None, "dq1"]


def test_a_student_of_unknown_size_has_no_baseline(race: Race) -> None:
    """Two sizes that nobody wrote down taken for the same."""
    state, config = race(PMD_AND_NONE, {"pmd": [0.40], "none": [0.38]})
    for metrics in state.tests.values():
        del metrics["bytes"]
    assert differences((state, config), "pmd") == (None, None)


def test_rows_say_what_was_set(race: Race) -> None:
    """dq1 to dq4, and one has to count lines of a configuration to know which is which."""
    methods = [{"name": "dq"}, {"name": "none"}, SMALL]
    table = comparison_table(*race(methods, {"dq1": [0.3], "none": [0.4], "dq2": [0.2]}))
    assert table is not None
    names = [row[0] for row in table.rows]
    assert names == ["every method", "dq1", "none", "dq2: prediction 0, attention 0, hidden 0"]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"name": "dq"}, ""),
        (
            {"name": "combined", "parts": [{"name": "pmd", "alpha": 0.2}, {"name": "dq", "weight_bits": 2}]},
            "pmd.alpha 0.2, dq.weight_bits 2",
        ),
        ({"name": "pmd", "alpha": "search"}, "alpha uniform [0, 0.45]"),
        ({"name": "dq", "weight_bits": {"choice": [2, 8]}}, "weight_bits choice [2, 8]"),
        ({"name": "reinforced", "teachers": ["runs/a", "runs/b"]}, "teachers [runs/a, runs/b]"),
    ],
)
def test_settings_read_as_they_were_written(section: dict[str, Any], expected: str) -> None:
    """Python's own words for a distribution, or two paths joined to one that does not exist."""
    content = {"data": {"path": "d"}, "encoder": {"name": "e"}, "grades": [{"layers": 2}], "method": section}
    assert settings_of(parse_config(content).method) == expected


def test_sections_of_one_name_are_compared_each_for_itself(race: Race) -> None:
    """Two weights of one method are told apart by their places, and both have the same baseline."""
    methods = [{"name": "pmd", "alpha": 0.1}, {"name": "none"}, {"name": "pmd", "alpha": 0.2}]
    compared = race(methods, {"pmd1": [0.30, 0.40], "none": [0.29, 0.39], "pmd2": [0.27, 0.42]})
    assert cells(compared, "pmd1")[:2] == ("none", "+0.0100 (2 of 2)")
    assert cells(compared, "pmd2")[:2] == ("none", "+0.0050 (1 of 2)")


def test_reranked_scores_are_compared_with_reranked_ones(race: Race) -> None:
    """A re-ranked method less a plain baseline."""
    state, config = race(PMD_AND_NONE, {"pmd": [0.40], "none": [0.38]})
    for (name, _), metrics in state.tests.items():
        factor = 0.5 if name.startswith("pmd") else 0.25
        metrics |= {f"{key}+neighbors": factor * value for key, value in metrics.items() if key.startswith("test/")}
    [row] = [row for row in comparisons(state, config, "+neighbors") if row.method == "pmd"]
    assert row.mrr_less_baseline is not None
    assert row.mrr_less_baseline.mean == pytest.approx(0.2 - 0.095)


def test_json_has_differences_at_full_precision(race: Race) -> None:
    """Programs read a rounded text, or nothing."""
    methods = [{"name": "pmd", "alpha": 0.2}, {"name": "none"}]
    compared = race(methods, {"pmd": [0.30, 0.40], "none": [0.28, 0.36]})
    rows = json.loads(json.dumps(report_json(*compared)))["results"]["plain"]["comparisons"]
    by_method = {row["method"]: row for row in rows}
    assert by_method["pmd"]["mrr_less_baseline"] == {
        "mean": pytest.approx(0.03, abs=1e-12),
        "above": 2,
        "seeds": 2,
    }
    assert by_method["pmd"]["hits_at_10_less_baseline"]["above"] == 2
    assert by_method["none"]["mrr_less_baseline"] is None
    assert (by_method["pmd"]["baseline"], by_method["none"]["baseline"]) == ("none", None)
    assert by_method["pmd"]["settings"] == "alpha 0.2"
