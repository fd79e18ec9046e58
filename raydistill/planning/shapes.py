"""What a method asks of the models it compares, as far as that can be told before there are any."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from raydistill.config.education import EducationSection
from raydistill.config.methods import Method, parts_of
from raydistill.config.minilm import MiniLMSection
from raydistill.config.reinforced import ReinforcedSection
from raydistill.config.self_feature import SelfFeatureSection
from raydistill.config.space import SearchedCount, bounds, counts
from raydistill.config.trial import TeacherReference
from raydistill.errors import CapabilityError
from raydistill.planning.ground import Ground
from raydistill.students.stages import timetable


def shape_problems(method: Method, width: int | None, teacher_layers: int) -> Iterator[str]:
    """What of a resolved method, or of its parts, does not fit.

    Args:
        method: of one trial.
        width: hidden units of its student at first (what becomes of them, and its teacher's, is the business of `widths.py`); None = not known.
        teacher_layers: how deep the model is that teaches it.
    """
    for part in parts_of(method):
        yield from _of_part(part, width, teacher_layers)


def _of_part(method: Method, width: int | None, teacher_layers: int) -> Iterator[str]:
    if isinstance(method, MiniLMSection):
        for layer in counts(method.teacher_layer):
            if layer >= teacher_layers:
                yield (
                    f"method.teacher_layer is {layer}, and its teacher has {teacher_layers} layers, counted from 0; leave it out for the last one, or give the "
                    "grade a method of its own"
                )
        for heads in _no_divisors(method.relation_heads, width):
            yield f"method.relation_heads is {heads}, which does not divide the student's {width} hidden units"
    if isinstance(method, SelfFeatureSection):
        for groups in _no_divisors(method.groups, width):
            yield f"method.groups is {groups}, which does not divide the student's {width} hidden units"


def _no_divisors(value: SearchedCount | None, width: int | None) -> list[int]:
    """The numbers that a value can become and that do not divide a known width."""
    return [number for number in counts(value) if width is not None and width % number]


def reading_problems(ground: Ground, max_tokens: int) -> Iterator[str]:
    """What the given teacher cannot read of texts of up to so many tokens."""
    if ground.given_teacher is None:
        return
    if ground.given_teacher_foreign:
        yield (
            f"teacher.checkpoint {ground.given_teacher.path} has another tokenizer than the encoder, and would read the student's token ids as other words; set "
            "encoder.name to the encoder that it was made of"
        )
    if ground.given_teacher_tokens is not None and ground.given_teacher_tokens < max_tokens:
        yield (
            f"teacher.checkpoint {ground.given_teacher.path} has positions for {ground.given_teacher_tokens} tokens, and data.max_tokens is {max_tokens}; lower it "
            f"to {ground.given_teacher_tokens}, or give another teacher"
        )


def growth_problems(method: Method, layers: int, epochs: int, num_relations: int | None) -> Iterator[str]:
    """What of a resolved method's growth does not fit.

    Args:
        method: of one trial.
        layers: of its student.
        epochs: of its training.
        num_relations: relations that have a training triple; None = not known.
    """
    if not isinstance(method, EducationSection):
        return
    (stages,), end = counts(method.stages), bounds(method.end)[0]
    try:
        timetable(stages, layers, epochs, end)
    except CapabilityError as problem:
        yield f"{problem.received}; expected {problem.expected}; {problem.remedy}"
    if num_relations is not None and stages > num_relations:
        yield f"method.stages is {stages}, and the graph has {num_relations} relations with a training triple, of which each stage opens a part; lower it"


def structural_problems(
    method: Method, others: Sequence[TeacherReference], structural: Collection[str]
) -> Iterator[str]:
    """What of a resolved method does not fit the structural models that teach.

    Args:
        method: of one trial.
        others: who teaches beside its teacher.
        structural: digests of structural models.
    """
    named = [one.path for one in others if one.digest in structural]
    for part in parts_of(method):
        if named and isinstance(part, ReinforcedSection) and part.objective == "mse":
            yield (
                f"method.objective is mse, which compares scores as they are, and {named[0]} is a structural model, whose scores are no cosines and have another "
                "unit; set it to kl, which compares distributions, or leave that teacher out"
            )
        if named and isinstance(part, EducationSection):
            yield (
                f"method.teachers names {named[0]}, which is a structural model, and of method education each teacher is the only one of its part; name a checkpoint "
                "of raydistill, or use method reinforced, where it teaches beside others"
            )
