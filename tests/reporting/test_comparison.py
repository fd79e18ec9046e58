"""Comparisons over seeds, against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.planning.state import CampaignState
from raydistill.reporting.comparison import Difference, baselines_of, comparisons, settings_of, shared_grades, spread
from raydistill.reporting.report import comparison_table, report_json

Compared = tuple[CampaignState, CampaignConfig]
Race = Callable[..., Compared]
PMD_AND_NONE = [{"name": "pmd"}, {"name": "none"}]


def differences(compared: Compared, method: str) -> tuple[Difference | None, Difference | None]:
    """Of one method's students, in MRR and Hits@10."""
    [row] = [row for row in comparisons(*compared) if row.method == method and row.grade == 1]
    return row.mrr_less_baseline, row.hits_at_10_less_baseline


def cells(compared: Compared, method: str) -> tuple[str, str]:
    """What the table has in its last two columns for one method's students."""
    table = comparison_table(*compared)
    assert table is not None
    assert table.columns[-2:] == ("MRR less no teacher", "Hits@10 less no teacher")
    [row] = [row for row in table.rows if row[0].partition(":")[0] == method and row[1] == "1-layers2"]
    return row[-2], row[-1]


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
    assert cells(compared, "pmd") == ("+0.0100 (1 of 3)", "+0.0100 (1 of 3)")
    behind = race(PMD_AND_NONE, {"pmd": [0.30, 0.40, 0.50], "none": [0.30, 0.42, 0.503]})
    assert cells(behind, "pmd")[0] == "-0.0077 (0 of 3)"


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
    assert cells(compared, "none") == ("–", "–")


def test_one_seed_is_a_difference_of_one(race: Race) -> None:
    """A first look at one seed: the difference is there, and says of how many it is."""
    compared = race(PMD_AND_NONE, {"pmd": [0.40], "none": [0.38]})
    assert cells(compared, "pmd") == ("+0.0200 (1 of 1)", "+0.0200 (1 of 1)")


def test_without_a_baseline_there_are_no_such_columns(race: Race) -> None:
    """Empty columns, where nothing that was compared goes without a teacher."""
    compared = race([{"name": "pmd"}, {"name": "self-feature"}], {"pmd": [0.30, 0.40], "self-feature": [0.28, 0.36]})
    assert baselines_of(compared[1]) == ()
    table = comparison_table(*compared)
    assert table is not None
    assert table.columns[-1] == "training"
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert "seed by seed" not in table.title
    assert differences(compared, "pmd") == (None, None)


SMALL = {"name": "dq", "prediction": 0, "attention": 0, "hidden": 0}


def test_each_size_has_its_own_baseline(race: Race) -> None:
    """What eight bits cost is taken for what a method is worth: in eight bits 0.30 is more than 0.27, and not less than 0.40."""
    methods = [{"name": "none"}, SMALL, {"name": "dq"}, {"name": "pmd"}, {"name": "homodistil", "width": 288}]
    mrrs = {"none": [0.40], "dq1": [0.27], "dq2": [0.30], "pmd": [0.45], "homodistil": [0.20]}
    compared = race(methods, mrrs, {"dq1": 1000.0, "dq2": 1000.5, "homodistil": 900.0})
    assert baselines_of(compared[1]) == ("none", "dq1")
    rows = {row.method: row.baseline for row in comparisons(*compared) if row.grade == 1}
    assert rows == {"none": None, "dq1": None, "dq2": "dq1", "pmd": "none", "homodistil": None}
    assert cells(compared, "pmd")[0] == "+0.0500 (1 of 1)"
    assert cells(compared, "homodistil") == ("–", "–")
    [found] = [row.mrr_less_baseline for row in comparisons(*compared) if row.method == "dq2"]
    assert found is not None
    assert found.mean == pytest.approx(0.03)


def test_a_student_of_unknown_size_has_no_baseline(race: Race) -> None:
    """Two sizes that nobody wrote down taken for the same."""
    state, config = race(PMD_AND_NONE, {"pmd": [0.40], "none": [0.38]})
    for metrics in state.tests.values():
        del metrics["bytes"]
    assert differences((state, config), "pmd") == (None, None)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"name": "none"}, True),
        (SMALL, True),
        (SMALL | {"weight_bits": 2}, True),
        ({"name": "homodistil", "width": 288, "prediction": 0, "attention": 0, "hidden": 0}, True),
        ({"name": "dq", "prediction": 0, "attention": 0}, False),
        (SMALL | {"hidden": {"choice": [0, 1]}}, False),
        ({"name": "self-feature"}, False),
        ({"name": "pmd", "alpha": 0, "beta": 0}, False),
        ({"name": "combined", "parts": [{"name": "pmd"}, SMALL]}, False),
    ],
)
def test_only_labels_make_a_baseline(race: Race, section: dict[str, Any], expected: bool) -> None:
    """A student that some trial teaches after all, or that teaches itself, as what others are measured against."""
    _, config = race([section], {"x": [0.3]})
    assert (baselines_of(config) != ()) is expected


def test_sections_of_one_name_say_what_they_differ_in(race: Race) -> None:
    """dq1 to dq4, and one has to count lines of a configuration to know which is which."""
    methods = [{"name": "dq"}, {"name": "none"}, SMALL]
    table = comparison_table(*race(methods, {"dq1": [0.3], "none": [0.4], "dq2": [0.2]}))
    assert table is not None
    names = [row[0] for row in table.rows]
    assert names == ["every method", "dq1", "none", "dq2: prediction 0, attention 0, hidden 0"]
    parts = [{"name": "pmd", "alpha": 0.2}, {"name": "dq", "weight_bits": 2}]
    both = race([{"name": "combined", "parts": parts}], {"pmd+dq": [0.3]})[1]
    assert both.compare is not None
    assert settings_of(both.compare.methods[0]) == "pmd.alpha 0.2, dq.weight_bits 2"


def test_sections_of_one_name_are_compared_each_for_itself(race: Race) -> None:
    """Two weights of one method are told apart by their places, and both have the same baseline."""
    methods = [{"name": "pmd", "alpha": 0.1}, {"name": "none"}, {"name": "pmd", "alpha": 0.2}]
    compared = race(methods, {"pmd1": [0.30, 0.40], "none": [0.29, 0.39], "pmd2": [0.27, 0.42]})
    assert baselines_of(compared[1]) == ("none",)
    assert cells(compared, "pmd1")[0] == "+0.0100 (2 of 2)"
    assert cells(compared, "pmd2")[0] == "+0.0050 (1 of 2)"


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
    compared = race(PMD_AND_NONE, {"pmd": [0.30, 0.40], "none": [0.28, 0.36]})
    rows = json.loads(json.dumps(report_json(*compared)))["results"]["plain"]["comparisons"]
    by_method = {row["method"]: row for row in rows}
    assert by_method["pmd"]["mrr_less_baseline"] == {
        "mean": pytest.approx(0.03, abs=1e-12),
        "above": 2,
        "seeds": 2,
    }
    assert by_method["pmd"]["hits_at_10_less_baseline"]["above"] == 2
    assert by_method["none"]["mrr_less_baseline"] is None
