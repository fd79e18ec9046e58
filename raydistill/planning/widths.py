"""How wide the models of a ladder are, and how many heads they have, where a grade prunes its student or a given teacher is of another encoder; and which methods
need equal ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from raydistill.config.amd import AssistantSection
from raydistill.config.baselines import DistilBERTSection, PKDSection, TinyBERTSection
from raydistill.config.boot import BootSection
from raydistill.config.dq import DQSection
from raydistill.config.homodistil import HomoDistilSection
from raydistill.config.methods import Method, PMDSection, parts_of
from raydistill.config.minilm import MiniLMSection
from raydistill.config.schema import CampaignConfig
from raydistill.config.self_feature import SelfFeatureSection
from raydistill.config.space import Choice, counts
from raydistill.config.trial import TrialConfig
from raydistill.planning.grades import Lineage, grade_plans, method_of, teaching_grade
from raydistill.planning.ground import Ground
from raydistill.students.keep_ratio import proportional


@dataclass(frozen=True)
class Sizes:
    """Of a tower; None = not known.

    Attributes:
        hidden: its width.
        intermediate: units of each feed-forward layer.
        heads: of its attention, which pruning leaves as many.
    """

    hidden: int | None
    intermediate: int | None
    heads: int | None


def sizes_of(config: CampaignConfig, lineage: Lineage, grade: int, ground: Ground) -> frozenset[Sizes]:
    """All sizes that what a grade promotes may have, whatever its search chooses; 0 = the teacher."""
    if grade == 0:
        if ground.given_teacher is not None:
            given = ground.given_teacher_width, ground.given_teacher_intermediate, ground.given_teacher_heads
            return frozenset({Sizes(*given)})
        return frozenset({encoder_sizes(ground)})
    plan = grade_plans(config, ground)[grade]
    assert plan.section is not None
    chosen = plan.section.init
    begun = set[Sizes]()
    for init in chosen.choice if isinstance(chosen, Choice) else (chosen,):
        above = sizes_of(config, lineage, teaching_grade(config, grade), ground)
        begun |= above if init == "teacher" else {encoder_sizes(ground)}
    return frozenset(left for one in begun for left in _pruned(method_of(lineage, plan), one))


def width_problems(trial: TrialConfig, first: Sizes, teacher: Sizes) -> Iterator[str]:
    """What of a trial's method, or of its parts, does not fit the widths of its models, or their heads.

    Args:
        trial: resolved.
        first: of its student at the beginning.
        teacher: of its teacher.
    """
    widths = {teacher.hidden, first.hidden, *(left.hidden for left in _pruned(trial.method, first))} - {None}
    for part in parts_of(trial.method):
        if isinstance(part, HomoDistilSection):
            yield from _unprunable(part, trial, first)
        if isinstance(part, AssistantSection) and part.intermediate:
            yield from _not_narrower(part, trial, first)
        if len(widths) > 1:
            yield from _of_unequal(part, trial, sorted(width for width in widths if width is not None), first.heads)
        if first.heads is not None and teacher.heads is not None and first.heads != teacher.heads:
            yield from _of_unequal_heads(part, first.heads, teacher.heads)


def encoder_sizes(ground: Ground) -> Sizes:
    """Those of the pre-trained encoder."""
    return Sizes(ground.encoder_width, ground.encoder_intermediate, ground.encoder_heads)


def _pruned(method: Method, sizes: Sizes) -> frozenset[Sizes]:
    """What a method, resolved or still to be searched, may leave of a student of these sizes."""
    for part in parts_of(method):
        if isinstance(part, HomoDistilSection):
            return frozenset(
                Sizes(width, intermediate, sizes.heads)
                for width in counts(part.width)
                for intermediate in counts(part.intermediate) or (_in_proportion(width, sizes),)
            )
        if isinstance(part, AssistantSection):
            widths = (sizes.intermediate, *(part.intermediate or ()))
            return frozenset(Sizes(sizes.hidden, intermediate, sizes.heads) for intermediate in widths)
    return frozenset({sizes})


def _in_proportion(width: int, sizes: Sizes) -> int | None:
    """Intermediate units that are left where nothing is said of them; None = not known."""
    if sizes.hidden is None or sizes.intermediate is None:
        return None
    return proportional(sizes.intermediate, width, sizes.hidden)


def _unprunable(part: HomoDistilSection, trial: TrialConfig, first: Sizes) -> Iterator[str]:
    if trial.init != "teacher":
        yield "method homodistil prunes a student that begins as its teacher, and this one starts from the pre-trained encoder; set init: teacher in the grade"
    for width in counts(part.width):
        if first.hidden is not None and width > first.hidden:
            yield f"method.width is {width}, and the student begins with {first.hidden} hidden units; set it to {first.hidden} or less"
        if first.heads is not None and width % first.heads:
            yield f"method.width is {width}, which the student's {first.heads} heads do not divide; set it to a multiple of {first.heads}"
    for intermediate in counts(part.intermediate):
        if first.intermediate is not None and intermediate > first.intermediate:
            yield (
                f"method.intermediate is {intermediate}, and the student begins with {first.intermediate} intermediate units; set it to "
                f"{first.intermediate} or less, or leave it out"
            )


def _not_narrower(part: AssistantSection, trial: TrialConfig, first: Sizes) -> Iterator[str]:
    """What of candidates with fewer intermediate units does not fit."""
    for intermediate in part.intermediate or ():
        if first.intermediate is not None and intermediate >= first.intermediate:
            yield (
                f"method.intermediate has {intermediate}, and the student may begin with {first.intermediate} intermediate units; name lower numbers, or leave it out: "
                "every depth competes with all units in any case"
            )
    if trial.contrastive.pre_batch:
        yield (
            "method amd trains another candidate in every step where method.intermediate is given, and the earlier vectors of contrastive.pre_batch would be another "
            "candidate's than the one that is held against them; set pre_batch to 0, or leave intermediate out"
        )


def assistant_size_problems(method: Method, first: Sizes, teacher: Sizes, teacher_layers: int) -> Iterator[str]:
    """What of a settled method's candidates leaves nobody between its teacher and the student below.

    Args:
        method: of the grade.
        first: of its student at the beginning; the student below counts as wide.
        teacher: of its teacher.
        teacher_layers: how deep that is.
    """
    known = (first.hidden, first.intermediate, teacher.hidden, teacher.intermediate)
    if not isinstance(method, AssistantSection) or method.depths is None or None in known:
        return
    if not method.intermediate and first.intermediate == teacher.intermediate:
        # A matter of depths alone, which `assistant_problems` looks at.
        return
    below, above = (method.student_layers or 0) * _of_a_layer(first), teacher_layers * _of_a_layer(teacher)
    each = [
        _of_a_layer(replace(first, intermediate=width)) for width in (first.intermediate, *(method.intermediate or ()))
    ]
    if not any(below < depth * one < above for depth in method.depths for one in each):
        yield (
            f"no candidate of {', '.join(map(str, method.depths))} layers is larger than the student of {method.student_layers or 0} and smaller than the teacher of "
            f"{teacher_layers}, which may have {teacher.intermediate} intermediate units where this grade's student has {first.intermediate}, so none can be chosen; "
            "change method.depths or method.intermediate, or set init: teacher in the grade"
        )


def _of_a_layer(sizes: Sizes) -> int:
    """Parameters: four products of attention, two of the feed-forward part, and two LayerNorms."""
    hidden, intermediate = sizes.hidden or 0, sizes.intermediate or 0
    return 4 * hidden * (hidden + 1) + intermediate * (2 * hidden + 1) + hidden + 4 * hidden


def _of_unequal(part: Method, trial: TrialConfig, widths: list[int], heads: int | None) -> Iterator[str]:
    """What a method, or part of one, cannot do with models of several widths, the student having so many heads."""
    seen = f"student and teacher are {' and '.join(map(str, widths))} units wide at some time"
    if isinstance(part, PMDSection) and part.beta and trial.mask_ratio:
        yield f"method pmd compares masked features unit by unit, and {seen}; set beta or mask_ratio to 0, or init: teacher where the teacher is the narrow one"
    if isinstance(part, AssistantSection):
        yield f"method amd needs an assistant that is smaller than its teacher and larger than the student, layer by layer, and {seen}; set init: teacher in the grade"
    if isinstance(part, DQSection) and part.hidden:
        yield f"method dq compares token states unit by unit, and {seen}; set method.hidden to 0, or init: teacher where the teacher is the narrow one"
    if isinstance(part, BootSection):
        yield f"method boot compares vectors unit by unit, and {seen}; choose logits, which compares scores, or init: teacher where the teacher is the narrow one"
    if isinstance(part, PKDSection) and trial.layers > 1:
        yield f"method pkd compares pooled states unit by unit, and {seen}; choose tinybert, which projects, or init: teacher where the teacher is the narrow one"
    if isinstance(part, DistilBERTSection) and part.cosine:
        yield f"method distilbert compares directions of states unit by unit, and {seen}; set method.cosine to 0, or init: teacher where the teacher is the narrow one"
    if isinstance(part, MiniLMSection):
        yield from _undivided(part, widths, heads, seen)
    if isinstance(part, SelfFeatureSection) and any(
        isinstance(one, HomoDistilSection) for one in parts_of(trial.method)
    ):
        yield "methods self-feature and homodistil are combined, and the first remembers vectors as wide as the student was; use one of them"


def _undivided(part: MiniLMSection, widths: list[int], heads: int | None, seen: str) -> Iterator[str]:
    """The relation heads that do not divide all widths: those that are asked for, or else the student's own, which need not be its teacher's."""
    remedy = f"set it to a divisor of {math.gcd(*widths)}"
    asked = counts(part.relation_heads)
    for number in asked:
        if any(width % number for width in widths):
            yield f"method.relation_heads is {number}, which does not divide all widths: {seen}; {remedy}"
    if part.variant == "minilmv2" and not asked and heads is not None and any(width % heads for width in widths):
        yield f"method.relation_heads is left out, and the student's {heads} heads do not divide all widths: {seen}; {remedy}"


def _of_unequal_heads(part: Method, own: int, theirs: int) -> Iterator[str]:
    """What a method, or part of one, cannot do with models of several numbers of heads. One that prunes begins as its teacher, and so with as many."""
    seen = f"the student has {own} heads and its teacher {theirs}"
    if isinstance(part, MiniLMSection) and part.variant == "minilm":
        yield (
            f"method minilm compares attention head by head, and {seen}; set variant to minilmv2 and relation_heads to what divides the widths of both, or "
            "init: teacher in the grade"
        )
    if isinstance(part, (TinyBERTSection, DQSection)) and part.attention:
        yield (
            f"method {part.name} compares attention head by head, and {seen}; set method.attention to 0, choose minilm with variant minilmv2 and relation_heads, "
            "which divides both alike, or set init: teacher in the grade"
        )
