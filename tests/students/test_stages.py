from __future__ import annotations

import pytest

from raydistill.errors import CapabilityError
from raydistill.students.stages import timetable


@pytest.mark.parametrize(
    ("stages", "layers", "epochs", "end", "expected"),
    [
        (3, 6, 50, 0.6, ((2, 4, 6), (0, 15, 30))),
        (3, 5, 6, 0.6, ((2, 4, 5), (0, 1, 3))),
        (2, 2, 2, 0.6, ((1, 2), (0, 1))),
        (4, 12, 10, 0.7, ((3, 6, 9, 12), (0, 2, 4, 7))),
        (1, 3, 1, 0.6, ((3,), (0,))),
        (3, 3, 100, 0.29, ((1, 2, 3), (0, 14, 29))),
    ],
)
def test_timetable(stages: int, layers: int, epochs: int, end: float, expected: tuple[tuple[int, ...], ...]) -> None:
    """A last stage without its layers, a first that begins late, or one rounded an epoch early (0.29 of 100 is 28.999999999999996)."""
    plan = timetable(stages, layers, epochs, end)
    assert (plan.layers, plan.opens) == expected


@pytest.mark.parametrize(
    ("stages", "layers", "epochs", "match"),
    [(4, 3, 50, "stages is 4, and the student has 3 layers"), (3, 6, 3, "begin with the epochs 1, 1, 2")],
)
def test_stage_of_nothing_is_refused(stages: int, layers: int, epochs: int, match: str) -> None:
    """A stage without a layer of its own, or one that is over before it began."""
    with pytest.raises(CapabilityError, match=match) as caught:
        timetable(stages, layers, epochs, 0.6)
    assert caught.value.expected
    assert caught.value.consequence
    assert caught.value.remedy
