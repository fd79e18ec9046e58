"""Multi-granularity semantic revision as terms."""

from __future__ import annotations

from raydistill.config.mgsr import MGSRSection
from raydistill.config.trial import TrialConfig
from raydistill.training.methods.shapes import Shapes
from raydistill.training.methods.values import contrastive_term, number, whole_number
from raydistill.training.own import drawn_from
from raydistill.training.terms.revision import Bounds, ClippedListTerm, SpanTerm
from raydistill.training.terms.term import Term


def mgsr_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """CE + clipped divergence along revised lists + span correlation (MGSR), each with a weight."""
    method = config.method
    assert isinstance(method, MGSRSection)
    with drawn_from(config.seed, "bounds"):
        bounds = Bounds()
    last = shapes.student.layers - 1, shapes.teacher.layers - 1
    length, least = whole_number(method.length), whole_number(method.least)
    seed = config.seed if method.drawn else None
    return [
        contrastive_term(config, number(method.contrastive)),
        ClippedListTerm(number(method.clipped), bounds, length, number(method.mass), least, seed),
        SpanTerm(number(method.span), *last, method.span_distance),
    ]
