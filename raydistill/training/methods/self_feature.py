"""Self-feature regularisation as terms."""

from __future__ import annotations

import logging
from dataclasses import replace

from raydistill.config.self_feature import SelfFeatureSection
from raydistill.config.trial import TrialConfig
from raydistill.errors import CapabilityError
from raydistill.training.methods.shapes import Shapes
from raydistill.training.methods.values import contrastive_term, number, whole_number
from raydistill.training.terms.itself import EarlierSelfTerm, SelfTransportTerm
from raydistill.training.terms.remembered import RememberedVectors
from raydistill.training.terms.states import projection
from raydistill.training.terms.term import Ramp, Term

logger = logging.getLogger(__name__)


def self_feature_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """(1 - e) CE + e/2 EARLIER SELF + gamma TRANSPORT, where e rises epoch by epoch; no teacher."""
    method, student = config.method, shapes.student
    assert isinstance(method, SelfFeatureSection)
    groups = None if method.groups is None else whole_number(method.groups)
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
