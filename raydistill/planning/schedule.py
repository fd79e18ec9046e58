"""When grades run, and who teaches: pure functions of the campaign's state."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Literal

from raydistill.planning.records import MRR, Event, Promotion, TrialRecord
from raydistill.planning.state import CampaignState

ScheduleName = Literal["sequential", "pipelined", "independent"]


def ready(
    lineages: Sequence[str],
    grades: int,
    state: CampaignState,
    schedule: ScheduleName,
    resting: Collection[tuple[str, int]] = (),
) -> list[tuple[str, int]]:
    """The (lineage, grade) pairs that may run now and have not promoted yet.

    Args:
        lineages: names of all ladders.
        grades: number of grades, the teacher included.
        state: what has happened so far.
        schedule: sequential: a grade follows the promotion above it; pipelined: the first checkpoint announced above it; independent: all
            follow the promotion of grade 0.
        resting: grades of which nothing is left but trials that wait for their final teacher; they follow the promotion too.
    """
    return [
        (lineage, grade)
        for lineage in lineages
        for grade in range(grades)
        if (lineage, grade) not in state.promotions
        and (grade == 0 or _may_run(state, lineage, grade, schedule, resting))
    ]


def to_come(
    lineages: Sequence[str],
    grades: int,
    state: CampaignState,
    schedule: ScheduleName,
    taken: Collection[tuple[str, int]],
    given_up: Collection[tuple[str, int]],
) -> int:
    """How many grades will move beside those that move now: what is given to these is not there for them.

    Only under the pipelined schedule; elsewhere a grade takes the room of the one it follows.

    Args:
        lineages: names of all ladders.
        grades: number of grades, the teacher included.
        state: what has happened so far.
        schedule: who may run when.
        taken: grades that run, or may start now.
        given_up: grades that nothing can be promoted of, which those below them wait for in vain.
    """
    if schedule != "pipelined":
        return 0
    return sum(
        (lineage, grade) not in state.promotions
        and (lineage, grade) not in taken
        and not any((lineage, upper) in given_up for upper in range(grade + 1))
        for lineage in lineages
        for grade in range(grades)
    )


def due(state: CampaignState, lineage: str, grade: int, schedule: ScheduleName) -> list[TrialRecord]:
    """The trials of a grade that wait for their final teacher, once it is there, by number."""
    if not has_final_teacher(state, lineage, grade, schedule):
        return []
    return [record for record in state.of(lineage, grade) if record.status == "paused"]


def has_final_teacher(state: CampaignState, lineage: str, grade: int, schedule: ScheduleName) -> bool:
    """Whether the final teacher of a grade is there; never for grade 0."""
    return grade > 0 and (lineage, above(grade, schedule)) in state.promotions


def above(grade: int, schedule: ScheduleName) -> int:
    """The grade that teaches `grade` (1 or more)."""
    return 0 if schedule == "independent" else grade - 1


def neighbours(grade: int, seeds: Sequence[int], grades: int, schedule: ScheduleName) -> int:
    """How many studies may run beside each other at a grade.

    Args:
        grade: which one.
        seeds: of the lineages; teachers of one seed are one teacher.
        grades: number of grades, the teacher included.
        schedule: pipelined: all grades move at once.
    """
    if schedule == "pipelined":
        return len(seeds) * grades
    return len(set(seeds)) if grade == 0 else len(seeds)


def teacher_of(state: CampaignState, lineage: str, grade: int, schedule: ScheduleName) -> Promotion | None:
    """Who teaches a grade now. None = nobody yet, and always for grade 0."""
    if grade == 0:
        return None
    place = lineage, above(grade, schedule)
    final = state.promotions.get(place)
    return state.announcements.get(place) if final is None and schedule == "pipelined" else final


def earlier_teachers(state: CampaignState, lineage: str, grade: int, schedule: ScheduleName) -> list[Promotion]:
    """What the grades above the one that teaches a grade have promoted, the nearest first; nothing where grades do not wait for each other."""
    if schedule != "sequential":
        return []
    places = ((lineage, upper) for upper in reversed(range(max(0, above(grade, schedule)))))
    return [state.promotions[place] for place in places if place in state.promotions]


def teacher_of_epoch(
    state: CampaignState, record: TrialRecord, epoch: int, schedule: ScheduleName, settle_epochs: int
) -> Promotion | None:
    """Who is to teach an epoch of a trial. None = its final teacher, who is not there yet.

    Args:
        state: what has happened so far.
        record: the trial.
        epoch: the epoch to begin, from 0.
        schedule: who teaches whom.
        settle_epochs: the last epochs of a trial, which are the final teacher's.
    """
    final = has_final_teacher(state, record.lineage, record.grade, schedule)
    if not final and epoch >= record.epochs - settle_epochs:
        return None
    return teacher_of(state, record.lineage, record.grade, schedule)


def worth_announcing(state: CampaignState, place: tuple[str, int], report: Event, min_delta: float) -> bool:
    """Whether a reported checkpoint should teach the grades below until their final teacher is there."""
    value = report["metrics"].get(MRR)
    if place in state.promotions or not report["checkpoint"] or value is None or not math.isfinite(value):
        return False
    if report["digest"] in state.unfit:
        return False
    known = state.announcements.get(place)
    best = -math.inf if known is None else known.metrics[MRR]
    return bool(value > best and value >= best + min_delta)


def _may_run(
    state: CampaignState, lineage: str, grade: int, schedule: ScheduleName, resting: Collection[tuple[str, int]]
) -> bool:
    if teacher_of(state, lineage, grade, schedule) is None:
        return False
    return (lineage, grade) not in resting or has_final_teacher(state, lineage, grade, schedule)
