from __future__ import annotations

import pytest

from raydistill.planning.records import Promotion, TrialRecord
from raydistill.planning.schedule import ScheduleName, due, ready, teacher_of, to_come
from raydistill.planning.state import CampaignState


def state(*promoted: tuple[str, int]) -> CampaignState:
    promotions = {place: Promotion(*place, f"{place}", f"/{place}", f"{place}", 1, {}) for place in promoted}
    return CampaignState(promotions=promotions)


@pytest.mark.parametrize(
    ("schedule", "promoted", "expected"),
    [
        ("sequential", [], [("a", 0), ("b", 0)]),
        ("sequential", [("a", 0)], [("a", 1), ("b", 0)]),
        ("sequential", [("a", 0), ("b", 0), ("a", 1)], [("a", 2), ("b", 1)]),
        ("sequential", [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 2)], []),
        ("independent", [], [("a", 0), ("b", 0)]),
        ("independent", [("a", 0)], [("a", 1), ("a", 2), ("b", 0)]),
        ("independent", [("a", 0), ("a", 2), ("b", 0)], [("a", 1), ("b", 1), ("b", 2)]),
    ],
)
def test_what_may_run(schedule: ScheduleName, promoted: list[tuple[str, int]], expected: list[tuple[str, int]]) -> None:
    """A grade would start without its teacher, twice, or never."""
    assert sorted(ready(["a", "b"], 3, state(*promoted), schedule)) == expected


@pytest.mark.parametrize(
    ("schedule", "grade", "teacher"),
    [("sequential", 0, None), ("sequential", 2, 1), ("independent", 2, 0), ("sequential", 3, None)],
)
def test_who_teaches(schedule: ScheduleName, grade: int, teacher: int | None) -> None:
    """A progressive ladder would secretly be a one-shot one, or the other way round."""
    found = teacher_of(state(("a", 0), ("a", 1), ("b", 2)), "a", grade, schedule)
    assert (found.grade if found else None) == teacher


@pytest.mark.parametrize(
    ("schedule", "promoted", "taken", "given_up", "count"),
    [
        ("pipelined", [], [("a", 0), ("b", 0)], [], 4),
        ("pipelined", [], [("a", 0), ("a", 1), ("a", 2), ("b", 0)], [], 2),
        ("pipelined", [("a", 0), ("b", 0), ("b", 1), ("b", 2)], [("a", 1)], [], 1),
        ("pipelined", [("a", 0), ("b", 0), ("b", 1), ("b", 2)], [("a", 2)], [("a", 1)], 0),
        ("sequential", [], [("a", 0), ("b", 0)], [], 0),
        ("independent", [], [("a", 0), ("b", 0)], [], 0),
    ],
)
def test_how_many_grades_are_still_to_move(
    schedule: ScheduleName,
    promoted: list[tuple[str, int]],
    taken: list[tuple[str, int]],
    given_up: list[tuple[str, int]],
    count: int,
) -> None:
    """Room would be kept for grades that never come, and stay idle; or for none, and they would wait."""
    assert to_come(["a", "b"], 3, state(*promoted), schedule, taken, given_up) == count


@pytest.mark.parametrize(
    ("resting", "promoted", "expected"),
    [
        ([], [], [("a", 1)]),
        ([("a", 1)], [], []),
        ([("a", 1)], [("a", 0)], [("a", 1)]),
        ([("a", 0), ("a", 1)], [("a", 0), ("a", 1)], []),
    ],
)
def test_grade_that_rests_follows_the_promotion_above(
    resting: list[tuple[str, int]], promoted: list[tuple[str, int]], expected: list[tuple[str, int]]
) -> None:
    """It would be started in vain before, again and again, or not any more after."""
    known = state(*promoted)
    known.announcements["a", 0] = Promotion("a", 0, "i", "/i", "i", 1, {})
    found = ready(["a"], 2, known, "pipelined", resting)
    assert [place for place in found if place[1]] == expected


@pytest.mark.parametrize(("promoted", "numbers"), [([], []), ([("a", 0)], [0, 2]), ([("a", 1), ("b", 0)], [])])
def test_trials_that_wait_are_due_with_their_own_teacher(promoted: list[tuple[str, int]], numbers: list[int]) -> None:
    """A trial would end under a teacher that was only announced, or go on waiting beside its own."""
    known = state(*promoted)
    for number, status in enumerate(("paused", "running", "paused", "finished")):
        known.trials["a", 1, number] = TrialRecord(f"{number}", "a", 1, number, {}, status=status)  # type: ignore[arg-type]
    assert [record.number for record in due(known, "a", 1, "pipelined")] == numbers
