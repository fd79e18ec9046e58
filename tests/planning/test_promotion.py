from __future__ import annotations

import math

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from raydistill.errors import PromotionError
from raydistill.planning.promotion import Candidate, candidates, choose
from raydistill.planning.records import BYTES, LAYERS, MRR, TrialRecord


@pytest.mark.parametrize(
    ("given", "tolerance", "winner"),
    [
        ([(0, 0.30, 6), (1, 0.31, 6)], 0.0, 1),
        ([(0, 0.30, 6), (1, 0.30, 6)], 0.0, 0),
        ([(1, 0.30, 6), (0, 0.30, 6)], 0.0, 0),
        ([(0, 0.31, 6), (1, 0.30, 3)], 0.0, 0),
        ([(0, 0.31, 6), (1, 0.30, 3)], 0.02, 1),
        ([(0, 0.31, 6), (1, 0.28, 3)], 0.02, 0),
        ([(0, 0.30, 6), (1, 0.31, 6)], 0.02, 0),
        ([(0, 0.32, 6), (1, 0.31, 3), (2, 0.30, 1)], 0.015, 1),
        ([(0, None, 3), (1, 0.1, 6)], 1.0, 1),
        ([(0, math.nan, 3), (1, 0.1, 6)], 1.0, 1),
    ],
)
def test_rule(given: list[tuple[int, float | None, int]], tolerance: float, winner: int) -> None:
    """The wrong trial would teach all grades below; ties would depend on the order in which trials ended."""
    assert choose([Candidate(number, mrr, (size,)) for number, mrr, size in given], tolerance).number == winner


def test_failed_trial_never_wins() -> None:
    """A trial that diverged after a lucky epoch would become the teacher."""
    listed = [Candidate(0, 0.9, (1,), "the loss is nan"), Candidate(1, 0.1, (9,))]
    assert choose(listed, 0.0).number == 1


def test_nobody_left_names_the_first_reason() -> None:
    """A reader would learn that nothing can be promoted, and not why."""
    with pytest.raises(PromotionError, match=r"none of 2 trials .*; trial 0 failed first: no memory"):
        choose([Candidate(1, None, (1,), "other"), Candidate(0, None, (1,), "no memory")], 0.0)
    with pytest.raises(PromotionError, match="none of 0 trials"):
        choose([], 0.0)


@drawn(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 12)), min_size=1, max_size=8),
    st.floats(0, 0.5),
    st.randoms(use_true_random=False),
)
def test_order_of_arrival_does_not_matter(scores: list[tuple[float, int]], tolerance: float, random: object) -> None:
    """Which trial is promoted would depend on which machine was faster."""
    listed = [Candidate(number, mrr, (size,)) for number, (mrr, size) in enumerate(scores)]
    winner = choose(listed, tolerance)
    shuffled = list(listed)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(shuffled, tolerance) == winner
    best = max(mrr for mrr, _ in scores)
    assert winner.mrr is not None
    assert winner.mrr >= best - tolerance
    assert all(winner.size <= (size,) for mrr, size in scores if mrr >= best - tolerance)


@pytest.mark.parametrize(("told", "winner"), [((900, 300, 500), 1), ((900, None, 500), 0), ((900, 900, 900), 0)])
def test_of_equally_deep_students_the_one_of_fewest_bytes_is_promoted(
    told: tuple[int | None, ...], winner: int
) -> None:
    """A search of widths or bits whose tie goes to the largest; or one that an earlier run began, which told no bytes, and in which nothing would count as small."""
    records = []
    for number, size in enumerate(told):
        record = TrialRecord(lineage="main", grade=1, number=number, identity=str(number), parameters={}, epochs=1)
        metrics = {MRR: 0.5 - number / 1000} | ({} if size is None else {BYTES: float(size)})
        record.reports.append({"epoch": 1, "metrics": metrics, "checkpoint": "/c", "digest": "d"})
        record.status = "finished"
        records.append(record)
    assert choose(candidates(records, 6), 0.01).number == winner
    assert choose(candidates(records, 6), 0.0).number == 0


def test_layers_come_before_bytes_and_a_failed_trial_has_no_say() -> None:
    """A deep student of few bits that wins over a shallow one; or one lost trial that turns the rule off."""
    records = []
    for number, (layers, size) in enumerate(((6, 100), (3, 900), (3, 500), (3, None))):
        record = TrialRecord(lineage="main", grade=1, number=number, identity=str(number), parameters={}, epochs=1)
        metrics = {MRR: 0.5, LAYERS: float(layers)} | ({} if size is None else {BYTES: float(size)})
        record.reports.append({"epoch": 1, "metrics": metrics, "checkpoint": "/c", "digest": "d"})
        record.status, record.reason = ("finished", "") if size is not None else ("failed", "no memory")
        records.append(record)
    assert choose(candidates(records, 6), 0.0).number == 2
