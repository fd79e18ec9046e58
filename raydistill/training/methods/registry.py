"""A method's name to its parts."""

from __future__ import annotations

from dataclasses import replace

from raydistill.config.methods import CombinedSection, parts_of
from raydistill.config.trial import TrialConfig
from raydistill.students.reshaping import Reshaper
from raydistill.training.methods.amd import assistant_terms, assistants
from raydistill.training.methods.baselines import (
    distilbert_terms,
    dkd_terms,
    logits_terms,
    none_terms,
    pkd_terms,
    tinybert_terms,
)
from raydistill.training.methods.boot import boot_builder, boot_conditioner, boot_corruption, boot_source, boot_terms
from raydistill.training.methods.dq import dq_reshaper, dq_terms
from raydistill.training.methods.education import education_parts, education_source, education_terms, grower
from raydistill.training.methods.homodistil import homodistil_terms, pruning_of
from raydistill.training.methods.mgsr import mgsr_terms
from raydistill.training.methods.minilm import minilm_terms
from raydistill.training.methods.pmd import pmd_terms
from raydistill.training.methods.recipe import Recipe
from raydistill.training.methods.reinforced import reinforced_terms
from raydistill.training.methods.self_feature import self_feature_terms
from raydistill.training.methods.shapes import Shape, Shapes
from raydistill.training.terms.term import ContrastiveTerm, Term


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


METHODS: dict[str, Recipe] = {
    "pmd": Recipe(pmd_terms),
    "mgsr": Recipe(mgsr_terms),
    "minilm": Recipe(minilm_terms),
    "self-feature": Recipe(self_feature_terms),
    "education": Recipe(education_terms, reshaper=grower, source=education_source, told_apart=education_parts),
    "boot": Recipe(boot_terms, boot_conditioner, boot_source, boot_builder, boot_corruption),
    "amd": Recipe(assistant_terms, reshaper=assistants),
    "reinforced": Recipe(reinforced_terms),
    "logits": Recipe(logits_terms),
    "dkd": Recipe(dkd_terms),
    "pkd": Recipe(pkd_terms),
    "tinybert": Recipe(tinybert_terms),
    "distilbert": Recipe(distilbert_terms),
    "homodistil": Recipe(homodistil_terms, reshaper=pruning_of),
    "dq": Recipe(dq_terms, reshaper=dq_reshaper),
    "combined": Recipe(_combined),
    "none": Recipe(none_terms),
}
