"""Which of several candidates becomes the assistant between a teacher and its student: performance lost for each size saved. Numbers alone, no torch.

Source:
    AMD (Han et al., ECCV 2024, arXiv 2407.04208), the negative performance-scale derivative. Its name and role are those of the paper as others report it;
    sign and normalisation are from memory. Ours: what is as small as the student or as large as the teacher is no candidate, and of equals the larger one wins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raydistill.errors import CapabilityError

TEACHER_PARAMETERS, TEACHER_MRR = "assistant/teacher/parameters", "assistant/teacher/mrr"
STUDENT_PARAMETERS = "assistant/student/parameters"
"""What a choice was made by, in a trial's report, beside the sizes and MRR of the candidates."""
CHOSEN_INTERMEDIATE = "student/intermediate"
"""Feed-forward units of what was chosen, where it has fewer than the student had; how deep it is, every report says."""
_PARAMETERS = "assistant/{}/parameters"
_CANDIDATE = re.compile(_PARAMETERS.format(r"layers(?P<layers>\d+)(-intermediate(?P<intermediate>\d+))?"))


@dataclass(frozen=True)
class InnerShape:
    """Of a model inside a student, which competes to be the assistant.

    Args:
        layers: how deep.
        intermediate: units of each of its feed-forward layers; None = all that the student has.
    """

    layers: int
    intermediate: int | None = None

    @property
    def name(self) -> str:
        """In metrics."""
        return f"layers{self.layers}" + ("" if self.intermediate is None else f"-intermediate{self.intermediate}")

    @property
    def words(self) -> str:
        """To be read."""
        units = "" if self.intermediate is None else f" of {self.intermediate} intermediate units"
        return f"{self.layers} layers{units}"


@dataclass(frozen=True)
class Model:
    """How big and how good a model is.

    Args:
        parameters: its size, counted alike for all that are compared.
        mrr: filtered MRR on the validation split, a ratio.
    """

    parameters: int
    mrr: float


@dataclass(frozen=True)
class Scored:
    """A candidate in the table of a choice.

    Args:
        shape: which.
        parameters: its size.
        scale: its size as a share of its teacher's.
        mrr: filtered MRR on the validation split, a ratio.
        npsd: points of MRR in percent for the whole of the teacher's size, the larger the better; None = it cannot be chosen.
        reason: why it cannot.
    """

    shape: InnerShape
    parameters: int
    scale: float
    mrr: float
    npsd: float | None
    reason: str = ""

    @property
    def layers(self) -> int:
        """How deep it is."""
        return self.shape.layers

    @property
    def row(self) -> dict[str, Any]:
        """In types JSON knows; of its width only where that is not the student's."""
        told = asdict(self)
        own = {name: value for name, value in told.pop("shape").items() if value is not None}
        return {**own, **told}


def npsd(performance: float, scale: float, teacher_performance: float, teacher_scale: float = 1.0) -> float:
    """Negative performance-scale derivative, `-(P_T - P_i) / (S_T - S_i)`: what is gained for each size saved. A candidate better than its teacher has one above 0.

    Args:
        performance: of the candidate, in any unit.
        scale: of the candidate, a share of the teacher's size; below `teacher_scale`.
        teacher_performance: in the same unit.
        teacher_scale: S_T.
    """
    return -(teacher_performance - performance) / (teacher_scale - scale)


def scored(candidates: Sequence[tuple[InnerShape, Model]], teacher: Model, student_parameters: int) -> list[Scored]:
    """The table of all candidates, in their order.

    Args:
        candidates: the shape of each, and what it is like.
        teacher: of them all.
        student_parameters: size of the student that the assistant is to teach; 0 = there is none.
    """
    return [_scored(shape, model, teacher, student_parameters) for shape, model in candidates]


def as_numbers(
    table: Sequence[Scored], teacher: Model, student_parameters: int, chosen: InnerShape
) -> dict[str, float]:
    """What a table was made from, but for the candidates' MRR, which a report has as `valid/layersK/mrr` or `valid/layersK-intermediateN/mrr`: reports carry numbers alone."""
    sizes = {_PARAMETERS.format(one.shape.name): float(one.parameters) for one in table}
    taught = {TEACHER_PARAMETERS: float(teacher.parameters), TEACHER_MRR: teacher.mrr}
    narrower = {} if chosen.intermediate is None else {CHOSEN_INTERMEDIATE: float(chosen.intermediate)}
    return {**sizes, **taught, STUDENT_PARAMETERS: float(student_parameters), **narrower}


def from_numbers(metrics: Mapping[str, float]) -> tuple[list[Scored], Model] | None:
    """The table of a choice and the teacher, from the report of the validation after which it was made; None where none was.

    Args:
        metrics: of the report, its names as `as_numbers` gives them.
    """
    found = [_shape(match) for name in metrics if (match := _CANDIDATE.fullmatch(name))]
    if not found:
        return None
    teacher = Model(int(metrics[TEACHER_PARAMETERS]), metrics[TEACHER_MRR])
    found.sort(key=lambda one: (one.layers, one.intermediate or math.inf))
    models = [
        (one, Model(int(metrics[_PARAMETERS.format(one.name)]), metrics[f"valid/{one.name}/mrr"])) for one in found
    ]
    return scored(models, teacher, int(metrics[STUDENT_PARAMETERS])), teacher


def best(table: Sequence[Scored]) -> Scored:
    """The candidate that loses least for what it saves; of equals the larger.

    Raises:
        CapabilityError: none can be chosen.
    """
    able = [(one.npsd, one.parameters, one) for one in table if one.npsd is not None]
    if not able:
        raise CapabilityError(
            "no candidate can be the assistant: " + "; ".join(f"{one.shape.words}: {one.reason}" for one in table),
            expected="a candidate larger than the student below it, smaller than its teacher, and with a finite MRR",
            consequence="nobody would stand between the two",
            remedy="name more of method.depths or of method.intermediate, lower method.student_layers, or leave this grade out",
        )
    return max(able, key=lambda one: one[:2])[2]


def standing_in_the_way(parameters: int, teacher_parameters: int, student_parameters: int) -> str:
    """Why a model of a size is no assistant; nothing where it may be one."""
    if parameters <= student_parameters:
        return "not larger than the student"
    return "" if parameters < teacher_parameters else "not smaller than its teacher"


def _shape(match: re.Match[str]) -> InnerShape:
    intermediate = match["intermediate"]
    return InnerShape(int(match["layers"]), None if intermediate is None else int(intermediate))


def _scored(shape: InnerShape, model: Model, teacher: Model, student_parameters: int) -> Scored:
    scale = model.parameters / teacher.parameters
    reason = standing_in_the_way(model.parameters, teacher.parameters, student_parameters)
    if not reason and not math.isfinite(model.mrr):
        reason = "its MRR is no number"
    value = None if reason else npsd(100 * model.mrr, scale, 100 * teacher.mrr)
    return Scored(shape, model.parameters, scale, model.mrr, value, reason)
