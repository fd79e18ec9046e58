"""The promotion rule: which trial of a grade becomes the next teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from raydistill.errors import PromotionError
from raydistill.planning.records import BYTES, ENDED, LAYERS, MRR, TrialRecord


@dataclass(frozen=True)
class Candidate:
    """A trial that asks to be promoted.

    Attributes:
        number: the trial's number within its grade.
        mrr: its best `valid/both/mrr`; None when it was never validated.
        size: what makes a model small: its layers, then its bytes; 0 for what is known of none.
        reason: why it failed; empty when it did not.
    """

    number: int
    mrr: float | None
    size: tuple[int, ...]
    reason: str = ""


def candidates(records: Sequence[TrialRecord], layers: int) -> list[Candidate]:
    """Trials of one grade as promotion sees them: one that has not ended has nothing to show yet.

    Args:
        records: all of the grade's.
        layers: those of the grade, where a trial did not find its own. Bytes decide only where all that may be promoted have told them: earlier runs did not.
    """
    # Asked once of each: it looks at all of its reports.
    shown = [record.shown for record in records]
    known = all(
        BYTES in one["metrics"]
        for one, record in zip(shown, records, strict=True)
        if one is not None and not record.reason
    )
    return [
        Candidate(
            record.number,
            # Not its best number: where its checkpoints were freed, nothing is left to promote.
            one["metrics"][MRR] if one is not None and not record.freed and record.status in ENDED else None,
            _size(one["metrics"] if one is not None else {}, layers, known),
            record.reason,
        )
        for one, record in zip(shown, records, strict=True)
    ]


def _size(metrics: Mapping[str, float], layers: int, known: bool) -> tuple[int, int]:
    return int(metrics.get(LAYERS, layers)), int(metrics.get(BYTES, 0)) if known else 0


def choose(candidates: Sequence[Candidate], tolerance: float) -> Candidate:
    """The best candidate: highest MRR; within `tolerance` of it the smallest; among equals the lowest number.

    A trial that was stopped early may win, because its best checkpoint is as good as its number says; a failed one never does.

    Raises:
        PromotionError: no candidate is left.
    """
    able = [(one.mrr, one) for one in candidates if one.mrr is not None and is_able(one)]
    if not able:
        raise _nobody(candidates)
    best = max(mrr for mrr, _ in able)
    return min((one for mrr, one in able if mrr >= best - tolerance), key=lambda one: (one.size, one.number))


def ranked(candidates: Sequence[Candidate], tolerance: float) -> Iterator[Candidate]:
    """All that could be promoted, in the order in which they would be, if those before them were not there."""
    left = [one for one in candidates if is_able(one)]
    while left:
        best = choose(left, tolerance)
        yield best
        left.remove(best)


def beats(one: Candidate, other: Candidate, tolerance: float) -> bool:
    """Whether `choose` takes the one rather than the other, both of which can be promoted, whoever else there is or will be.

    Either it sets a bar that the other does not reach; or it is as good, and smaller or earlier. This is an order: who is beaten by so many is beaten by as many of
    those that are not.
    """
    assert one.mrr is not None and other.mrr is not None
    earlier = (one.size, one.number) < (other.size, other.number)
    return one.mrr - tolerance > other.mrr or (one.mrr >= other.mrr and earlier)


def is_able(one: Candidate) -> bool:
    """Whether it may be promoted at all."""
    return not one.reason and one.mrr is not None and math.isfinite(one.mrr)


def _nobody(candidates: Sequence[Candidate]) -> PromotionError:
    failed = sorted((one for one in candidates if one.reason), key=lambda one: one.number)
    first = f"; trial {failed[0].number} failed first: {failed[0].reason}" if failed else ""
    return PromotionError(
        f"none of {len(candidates)} trials can be promoted{first}",
        expected="one trial that was validated and did not fail",
        consequence="the grades below would have no teacher",
        remedy="mend what the reason names, then run again with --resume: finished grades are kept",
    )
