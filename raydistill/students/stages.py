"""The timetable of a student that goes to school: how many of its layers there are in each stage, and when each begins. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from raydistill.errors import CapabilityError


@dataclass(frozen=True)
class Stages:
    """Stages of growth, from the first to the whole student.

    Args:
        layers: of the student in each stage.
        opens: the epoch, from 0, with which each begins.
    """

    layers: tuple[int, ...]
    opens: tuple[int, ...]


def timetable(stages: int, layers: int, epochs: int, end: float) -> Stages:
    """Layers as evenly over the stages as can be, the first ones longer; stages evenly over the first `end` of the epochs.

    Args:
        stages: how many.
        layers: of the whole student.
        epochs: of the whole training.
        end: share of them after which the last stage begins, in (0, 1).

    Raises:
        CapabilityError: a stage would add no layer, or have no epoch.
    """
    if stages > layers:
        raise CapabilityError(
            f"method.stages is {stages}, and the student has {layers} layers",
            expected=f"at most {layers} stages: each adds a layer",
            consequence="a stage would begin with the student of the one before",
            remedy=f"set method.stages to {layers} or less, or give the grade a method of its own",
        )
    opens = tuple(math.floor(epochs * end * stage / max(1, stages - 1) + 1e-9) for stage in range(stages))
    if len(set(opens)) < stages:
        raise CapabilityError(
            f"method.stages is {stages} in {epochs} epochs, and they would begin with the epochs {', '.join(str(one + 1) for one in opens)}",
            expected="an epoch at least for each stage",
            consequence="a part of the student would begin without having learned what it should build on",
            remedy="train for more epochs, raise method.end, or lower method.stages",
        )
    return Stages(tuple(-(-layers * (stage + 1) // stages) for stage in range(stages)), opens)
