"""Grades whose depth is found while they train: how deep an assistant may be, and what has to fit all of these depths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raydistill.config.amd import AssistantSection
from raydistill.config.methods import Method


def settled(method: Method, layers: int, below: int | None) -> Method:
    """A method with what it leaves to the ladder filled in.

    Args:
        method: of a grade.
        layers: of the grade.
        below: layers of the next grade; None = there is none.
    """
    return method.settled(layers, below) if isinstance(method, AssistantSection) else method


def promoted_layers(method: Method, layers: int, teacher_layers: Sequence[int]) -> tuple[int, ...]:
    """How deep the student may be that a grade promotes, rising.

    Args:
        method: of the grade, settled.
        layers: of the grade.
        teacher_layers: how deep its teacher may be.
    """
    if not isinstance(method, AssistantSection):
        return (layers,)
    able = _able(method, max(teacher_layers))
    return tuple(able) or (layers,)


def assistant_problems(method: Method, layers: int, teacher_layers: int) -> Iterator[str]:
    """What of a settled method's candidates does not fit its grade and a teacher of so many layers."""
    if not isinstance(method, AssistantSection) or method.depths is None:
        return
    deepest, below = max(method.depths), method.student_layers or 0
    if deepest != layers:
        yield (
            f"the deepest of method.depths is {deepest}, and the grade has {layers} layers; it has to be one of the candidates, because nothing else would "
            f"train its last layers; add {layers}, or set layers to {deepest}"
        )
    if not _able(method, teacher_layers):
        yield (
            f"none of the candidates of {', '.join(map(str, method.depths))} layers is deeper than the student of {below} and "
            f"{'no deeper' if method.intermediate else 'shallower'} than the teacher of {teacher_layers}, so none can be chosen; set the grade's layers between them, or leave it out"
        )


def _able(method: AssistantSection, teacher_layers: int) -> list[int]:
    """Depths that may be chosen: deeper than the student, and shallower than the teacher or, with fewer intermediate units, as deep."""
    deepest = teacher_layers if method.intermediate else teacher_layers - 1
    return [depth for depth in method.depths or () if (method.student_layers or 0) < depth <= deepest]
