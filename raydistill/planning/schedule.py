"""When grades run, and who teaches: pure functions of the campaign's state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from raydistill.planning.records import Promotion
from raydistill.planning.state import CampaignState

ScheduleName = Literal["sequential", "independent"]


def ready(lineages: Sequence[str], grades: int, state: CampaignState, schedule: ScheduleName) -> list[tuple[str, int]]:
    """The (lineage, grade) pairs that may run now and have not promoted yet.

    Args:
        lineages: names of all ladders.
        grades: number of grades, the teacher included.
        state: what has happened so far.
        schedule: sequential: a grade follows the promotion above it; independent: all follow the promotion of grade 0.
    """
    return [
        (lineage, grade)
        for lineage in lineages
        for grade in range(grades)
        if (lineage, grade) not in state.promotions
        and (grade == 0 or teacher_of(state, lineage, grade, schedule) is not None)
    ]


def teacher_of(state: CampaignState, lineage: str, grade: int, schedule: ScheduleName) -> Promotion | None:
    """Who teaches a grade now. None = nobody yet, and always for grade 0.

    The answer depends on the state alone, so a schedule that changes teachers while trials run needs only another rule here.
    """
    if grade == 0:
        return None
    return state.promotions.get((lineage, grade - 1 if schedule == "sequential" else 0))
