from __future__ import annotations

import json

import pytest

from raydistill.errors import CapabilityError
from raydistill.students.assistants import InnerShape, Model, Scored, as_numbers, best, from_numbers, npsd, scored

SIZES = {12: 218_964_480, 9: 176_437_248, 6: 133_910_016, 3: 91_382_784}
"""Parameters of two BERT-base towers of so many layers."""
CURVES = {
    "pmd": {12: 67.8, 9: 67.2, 6: 65.9, 3: 62.8},
    "logits": {12: 67.1, 9: 66.2, 6: 64.5, 3: 61.8},
    "none": {12: 66.9, 9: 63.1, 6: 62.1, 3: 61.2},
}
"""MRR on WN18RR in percent, as the PMD paper reports it."""


def table(mrr: dict[int, float], *, unit: float = 0.01, shift: float = 0.0, student: int = 0) -> list[Scored]:
    models = {depth: Model(SIZES[depth], unit * (value + shift)) for depth, value in mrr.items()}
    return scored([(InnerShape(depth), models[depth]) for depth in (3, 6, 9)], models[12], student)


@pytest.mark.parametrize(
    ("curve", "expected", "chosen"),
    [
        ("pmd", {9: -3.09, 6: -4.89, 3: -8.58}, 9),
        ("logits", {9: -4.63, 6: -6.69, 3: -9.10}, 9),
        ("none", {9: -19.57, 6: -12.36, 3: -9.78}, 3),
    ],
)
def test_npsd_of_published_curves_and_who_is_chosen(curve: str, expected: dict[int, float], chosen: int) -> None:
    """Another sign or another normalisation, under which another assistant would be chosen."""
    found = table(CURVES[curve])
    assert {one.layers: round(one.npsd, 2) for one in found if one.npsd is not None} == expected
    assert best(found).layers == chosen


def test_what_is_no_larger_than_the_student_is_not_chosen() -> None:
    """The student itself as its own assistant, which a convex curve asks for."""
    found = table(CURVES["none"], student=SIZES[3])
    assert [one.reason for one in found] == ["not larger than the student", "", ""]
    assert found[0].npsd is None
    assert best(found).layers == 6


def test_choice_depends_on_neither_zero_nor_unit_of_the_performance() -> None:
    """An assistant that depends on whether MRR is a ratio or in percent."""
    for curve in CURVES.values():
        expected = best(table(curve)).layers
        assert best(table(curve, shift=11.0)).layers == expected
        assert best(table(curve, unit=1.0)).layers == expected
        order = sorted(table(curve), key=lambda one: one.npsd or 0.0)
        shifted = sorted(table(curve, unit=0.37, shift=-5.0), key=lambda one: one.npsd or 0.0)
        assert [one.layers for one in order] == [one.layers for one in shifted]


def test_injected_validation_with_a_known_optimum_is_found() -> None:
    """A search that settles beside the best candidate."""
    sizes = {depth: 100 + 50 * depth for depth in range(1, 13)}
    for optimum in range(2, 12):
        # Everybody loses a point for each percent saved, but for one who loses half of that.
        loss = {depth: (1 - size / sizes[12]) * (0.5 if depth == optimum else 1.0) for depth, size in sizes.items()}
        models = [(InnerShape(depth), Model(sizes[depth], 0.6 - 0.01 * loss[depth])) for depth in range(1, 12)]
        assert best(scored(models, Model(sizes[12], 0.6), sizes[1])).layers == optimum


def test_of_equals_the_larger_wins() -> None:
    """A choice by the order in which candidates are listed."""
    models = [(InnerShape(depth), Model(depth * 100, 0.5 + depth * 0.03125)) for depth in (1, 2, 3)]
    for order in (models, models[::-1]):
        found = scored(order, Model(400, 0.625), 0)
        assert len({one.npsd for one in found}) == 1
        assert best(found).layers == 3


def test_candidate_better_than_its_teacher_is_legal() -> None:
    """A gap below zero taken for an error, or for a loss."""
    found = scored([(InnerShape(2), Model(50, 0.7)), (InnerShape(3), Model(75, 0.65))], Model(100, 0.6), 0)
    assert [one.npsd for one in found] == pytest.approx([20.0, 20.0])
    assert npsd(61.0, 0.5, 60.0) == 2.0


def test_candidate_as_large_as_its_teacher_has_no_npsd() -> None:
    """A division by zero, or a loss that is divided by a size that grew."""
    found = scored(
        [(InnerShape(2), Model(50, 0.5)), (InnerShape(4), Model(100, 0.9)), (InnerShape(5), Model(120, 0.9))],
        Model(100, 0.6),
        0,
    )
    assert [one.reason for one in found] == ["", "not smaller than its teacher", "not smaller than its teacher"]
    assert best(found).layers == 2


def test_choice_among_nobody_is_refused() -> None:
    """An assistant that is none."""
    found = scored([(InnerShape(2), Model(50, float("nan"))), (InnerShape(4), Model(100, 0.9))], Model(100, 0.6), 40)
    with pytest.raises(CapabilityError, match="2 layers: its MRR is no number; 4 layers: not smaller") as caught:
        best(found)
    assert caught.value.remedy


def test_rows_of_the_table_are_json() -> None:
    """A record that cannot be written at the end of a training."""
    found = table(CURVES["pmd"], student=SIZES[3])
    assert json.loads(json.dumps([one.row for one in found])) == [one.row for one in found]
    assert found[2].row["scale"] == pytest.approx(0.806, abs=5e-4)


def test_narrower_candidates_are_told_from_the_whole_ones_of_their_depth() -> None:
    """Two candidates of one name; a table that cannot be made again from a report; the width of one that was chosen, forgotten."""
    models = {InnerShape(2, 8): Model(40, 0.5), InnerShape(2): Model(50, 0.58), InnerShape(10, 8): Model(70, 0.55)}
    teacher, found = Model(100, 0.6), scored(list(models.items()), Model(100, 0.6), 45)
    assert [one.shape.name for one in found] == ["layers2-intermediate8", "layers2", "layers10-intermediate8"]
    assert [one.reason for one in found] == ["not larger than the student", "", ""]
    assert best(found).shape == InnerShape(2)
    assert found[0].row["intermediate"] == 8
    assert "intermediate" not in found[1].row
    told = as_numbers(found, teacher, 45, InnerShape(2, 8)) | {
        f"valid/{one.name}/mrr": model.mrr for one, model in models.items()
    }
    assert told["student/intermediate"] == 8
    assert from_numbers(dict(sorted(told.items()))) == (found, teacher)
    with pytest.raises(CapabilityError, match="2 layers of 8 intermediate units: not larger than the student"):
        best(found[:1])
