"""Who teaches a trial beside the grade above it, or in its place: checkpoints that its method names, and the grades further up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raydistill.config.methods import Method
from raydistill.config.other_teachers import named_by, part_teachers, takes_earlier
from raydistill.config.trial import TeacherReference


def others_of(
    method: Method,
    given: Mapping[str, TeacherReference],
    teacher: TeacherReference | None,
    earlier: Sequence[TeacherReference],
    first: str | None = None,
) -> tuple[TeacherReference, ...]:
    """The other teachers of a trial, each checkpoint once, and none that is its teacher anyway; or those of its parts, each at its place.

    Args:
        method: of the trial.
        given: the checkpoints that methods name, by their places.
        teacher: the grade above; None = nobody teaches.
        earlier: those of the grades further up, the nearest first.
        first: digest of the given teacher where it is the grade above, which a teacher that changes does not tell.
    """
    if part_teachers(method):
        # Their places are the parts' numbers: one that is there twice, or is the grade above, stays where it is.
        return tuple(given[place] for place in part_teachers(method))
    if teacher is None:
        return ()
    candidates = [*(earlier if takes_earlier(method) else ()), *(given[place] for place in named_by(method))]
    distinct = dict[str, TeacherReference]()
    for one in candidates:
        if one.digest not in (teacher.digest, first):
            distinct.setdefault(one.digest, one)
    return tuple(distinct.values())
