"""Automatic multi-step distillation assembled: terms over all candidates, and what chooses among them."""

from __future__ import annotations

import logging
import math

from raydistill.config.amd import AssistantSection
from raydistill.config.trial import TrialConfig
from raydistill.errors import CapabilityError
from raydistill.students.nested import Assistants
from raydistill.students.reshaping import Standing
from raydistill.training.methods.shapes import Shape, Shapes
from raydistill.training.methods.values import contrastive_term, number
from raydistill.training.standing import checkpoint_size
from raydistill.training.terms.nested import NestedTerm, VectorTerm
from raydistill.training.terms.scores import DivergenceTerm
from raydistill.training.terms.term import Term

logger = logging.getLogger(__name__)


def assistant_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """CE + KL + squared distance of vectors, each the mean over all candidates (AMD)."""
    method, widths = config.method, (shapes.student.width, shapes.teacher.width)
    assert isinstance(method, AssistantSection)
    terms: list[Term] = [
        contrastive_term(config, number(method.contrastive)),
        DivergenceTerm(number(method.prediction), number(method.temperature)),
    ]
    if widths[0] == widths[1]:
        terms.append(VectorTerm(number(method.feature)))
    elif number(method.feature):
        logger.info("a student %d wide and a teacher %d wide: the feature term is off", *widths)
    depths, _ = _settled(config, method)
    inner = tuple(depth - 1 for depth in depths if depth < config.layers)
    return [NestedTerm.of(term, inner, config.encoder.pooling) for term in terms]


def assistants(config: TrialConfig, shape: Shape, steps: int) -> Assistants:
    """What chooses the assistant after the last epoch."""
    method, teacher = config.method, None
    assert isinstance(method, AssistantSection)
    if config.teacher is not None:
        # How good it is will be asked at the end.
        teacher = Standing(math.nan, *checkpoint_size(config.teacher.path))
    depths, student_layers = _settled(config, method)
    widths = 1 + len(method.intermediate or ())
    if steps < widths:
        raise CapabilityError(
            f"a training of {steps} steps and candidates of {widths} widths, of which each step trains one",
            expected=f"at least {widths} steps",
            consequence="a candidate that never learned would compete",
            remedy="name fewer numbers in method.intermediate, or train for more epochs",
        )
    return Assistants(
        depths,
        student_layers,
        intermediate=method.intermediate or (),
        include_embeddings=method.include_embeddings,
        layer_map=config.layer_map,
        teacher=teacher,
    )


def _settled(config: TrialConfig, method: AssistantSection) -> tuple[tuple[int, ...], int]:
    """Depths of the candidates, and layers of the student below, 0 where there is none."""
    settled = method.settled(config.layers, None)
    depths = settled.depths
    assert depths is not None
    assert depths[-1] == config.layers, (
        f"planning refuses candidates of {depths} layers in a student of {config.layers}"
    )
    return depths, settled.student_layers or 0
