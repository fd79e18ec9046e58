"""The assembly: a method's name to its parts. The one place below orchestration where a configuration becomes terms."""

from __future__ import annotations

import logging
from dataclasses import replace

from raydistill.config.methods import CombinedSection, PMDSection, parts_of
from raydistill.config.mgsr import MGSRSection
from raydistill.config.minilm import MiniLMSection
from raydistill.config.self_feature import SelfFeatureSection
from raydistill.config.trial import TrialConfig
from raydistill.errors import CapabilityError
from raydistill.students.reshaping import Reshaper
from raydistill.training.amd import assistant_terms, assistants
from raydistill.training.baselines import (
    contrastive_term,
    dkd_terms,
    logits_terms,
    none_terms,
    number,
    pkd_terms,
    tinybert_terms,
    whole_number,
)
from raydistill.training.boot import boot_builder, boot_conditioner, boot_corruption, boot_source, boot_terms
from raydistill.training.dq import dq_reshaper, dq_terms
from raydistill.training.education import education_source, education_terms, grower
from raydistill.training.feature_terms import MaskedFeatureTerm
from raydistill.training.homodistil import homodistil_terms, pruning_of
from raydistill.training.own import drawn_from
from raydistill.training.recipe import Recipe
from raydistill.training.reinforced import reinforced_terms
from raydistill.training.relation_terms import RelationTerm, Which
from raydistill.training.remembered import RememberedVectors
from raydistill.training.revision_terms import Bounds, ClippedListTerm, SpanTerm
from raydistill.training.score_terms import ScoreTerm
from raydistill.training.self_terms import EarlierSelfTerm, SelfTransportTerm
from raydistill.training.shapes import Shape, Shapes
from raydistill.training.state_terms import projection
from raydistill.training.terms import ContrastiveTerm, Ramp, Term

logger = logging.getLogger(__name__)


def assemble(config: TrialConfig, shapes: Shapes) -> tuple[Term, ...]:
    """The terms of a trial. Terms of weight zero are left out: they would cost a teacher pass and teach nothing.

    Raises:
        CapabilityError: the method's terms cannot compare models of these shapes.
    """
    terms = METHODS[config.method.name].terms(config, shapes)
    return tuple(term for term in terms if term.weight != 0)


def reshaping(config: TrialConfig, shape: Shape, steps: int) -> tuple[Reshaper, ...]:
    """What changes the student's shape or number format in so many steps; of a combined method, one part's after another's.

    Raises:
        CapabilityError: it cannot be done to a student of this shape.
    """
    parts = [(METHODS[part.name].reshaper, part) for part in parts_of(config.method)]
    return tuple(
        reshaper(config.model_copy(update={"method": part}), shape, steps)
        for reshaper, part in parts
        if reshaper is not None
    )


def _combined(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """The first part's contrastive term, and all others of all parts, named after them."""
    method, terms = config.method, list[Term]()
    assert isinstance(method, CombinedSection)
    for part in method.parts:
        for term in METHODS[part.name].terms(config.model_copy(update={"method": part}), shapes):
            if not isinstance(term, ContrastiveTerm):
                terms.append(replace(term, name=f"{part.name}.{term.name}"))  # type: ignore[type-var]
            elif part is method.parts[0]:
                terms.append(term)
    return terms


def _pmd(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """(1 - alpha - beta) CE + alpha SCORE + beta MGFD (PMD Eq. 6); without masks the feature term's weight goes back to CE."""
    method = config.method
    assert isinstance(method, PMDSection)
    alpha, beta = number(method.alpha), number(method.beta)
    if config.mask_ratio == 0 and beta > 0:
        logger.info(
            "mask ratio 0: the masked-feature term is off and its weight %g goes back to the contrastive term", beta
        )
        beta = 0.0
    return [
        contrastive_term(config, 1 - alpha - beta, "sum" if method.preset == "reference" else "mean"),
        ScoreTerm(alpha, space=method.score_space),
        MaskedFeatureTerm(
            beta,
            student_layer=shapes.student.layers - 1,
            teacher_layer=shapes.teacher.layers - 1,
            preset=method.preset,
            over_hidden=method.over_hidden,
        ),
    ]


def _minilm(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """CE + relations of one layer: attention and values (MiniLM), or queries, keys and values each with itself (MiniLMv2)."""
    method = config.method
    assert isinstance(method, MiniLMSection)
    taught = shapes.teacher.layers - 1 if method.teacher_layer is None else method.teacher_layer
    if taught >= shapes.teacher.layers:
        raise CapabilityError(
            f"method.teacher_layer is {taught}, and the teacher has {shapes.teacher.layers} layers",
            expected=f"0 to {shapes.teacher.layers - 1}, or null for its last",
            consequence="there would be nothing to learn from",
            remedy="leave teacher_layer out, or give the grade a method of its own",
        )
    between: tuple[tuple[str, tuple[Which, Which]], ...]
    if method.variant == "minilm":
        shapes.require_equal_heads("method minilm compares attention head by head")
        between, heads = (("attention", ("queries", "keys")), ("value", ("values", "values"))), shapes.student.heads
    else:
        shapes.require_open("method minilm compares attention")
        between = (("query", ("queries", "queries")), ("key", ("keys", "keys")), ("value", ("values", "values")))
        heads = _relation_heads(whole_number(method.relation_heads) or shapes.student.heads, shapes)
    last = shapes.student.layers - 1
    return [
        contrastive_term(config, number(method.contrastive)),
        *(
            RelationTerm(number(method.relation), pair, last, taught, heads, f"{name}_relation")
            for name, pair in between
        ),
    ]


def _relation_heads(heads: int, shapes: Shapes) -> int:
    widths = shapes.student.width, shapes.teacher.width
    if any(width % heads for width in widths):
        raise CapabilityError(
            f"{heads} relation heads for a student {widths[0]} wide and a teacher {widths[1]} wide",
            expected="a number that divides both widths",
            consequence="heads would share units",
            remedy="set method.relation_heads to a divisor, such as the encoder's own number of heads",
        )
    return heads


def _mgsr(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """CE + clipped divergence along revised lists + span correlation (MGSR), each with a weight."""
    method = config.method
    assert isinstance(method, MGSRSection)
    with drawn_from(config.seed, "bounds"):
        bounds = Bounds()
    last = shapes.student.layers - 1, shapes.teacher.layers - 1
    length, least = round(number(method.length)), round(number(method.least))
    return [
        contrastive_term(config, number(method.contrastive)),
        ClippedListTerm(number(method.clipped), bounds, length, number(method.mass), least),
        SpanTerm(number(method.span), *last, method.span_distance),
    ]


def _self_feature(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """(1 - e) CE + e/2 EARLIER SELF + gamma TRANSPORT, where e rises epoch by epoch; no teacher."""
    method, student = config.method, shapes.student
    assert isinstance(method, SelfFeatureSection)
    groups = whole_number(method.groups)
    if groups is not None and student.width % groups:
        raise CapabilityError(
            f"method.groups is {groups}, and the student has {student.width} channels",
            expected="a number that divides them",
            consequence="groups would be of unequal size",
            remedy=f"set it to a divisor of {student.width}, or leave it out",
        )
    # From the first to the last layer, evenly: a third and two thirds of the way up.
    shallow = tuple(sorted({-(-student.layers * part // 3) - 1 for part in (1, 2)} - {student.layers - 1}))
    terms: list[Term] = [contrastive_term(config, 1.0)]
    smoothing, epochs = number(method.smoothing), config.training.epochs
    if smoothing:
        terms = [
            replace(contrastive_term(config, 1.0), ramp=Ramp(1.0, 1.0 - smoothing, epochs)),
            EarlierSelfTerm(1.0, Ramp(0.0, smoothing, epochs), RememberedVectors(student.width)),
        ]
    if shallow:
        carried = projection(student.width, student.width) if method.projection else None
        terms.append(SelfTransportTerm(number(method.gamma), shallow, student.layers - 1, groups, carried))
    else:
        logger.info("a student of one layer has no shallow one: the transport term is off")
    return terms


METHODS: dict[str, Recipe] = {
    "pmd": Recipe(_pmd),
    "mgsr": Recipe(_mgsr),
    "minilm": Recipe(_minilm),
    "self-feature": Recipe(_self_feature),
    "education": Recipe(education_terms, reshaper=grower, source=education_source),
    "boot": Recipe(boot_terms, boot_conditioner, boot_source, boot_builder, boot_corruption),
    "amd": Recipe(assistant_terms, reshaper=assistants),
    "reinforced": Recipe(reinforced_terms),
    "logits": Recipe(logits_terms),
    "dkd": Recipe(dkd_terms),
    "pkd": Recipe(pkd_terms),
    "tinybert": Recipe(tinybert_terms),
    "homodistil": Recipe(homodistil_terms, reshaper=pruning_of),
    "dq": Recipe(dq_terms, reshaper=dq_reshaper),
    "combined": Recipe(_combined),
    "none": Recipe(none_terms),
}
