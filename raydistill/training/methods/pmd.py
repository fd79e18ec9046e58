"""Progressive distillation with masked generation features as terms."""

from __future__ import annotations

import logging

from raydistill.config.methods import PMDSection
from raydistill.config.trial import TrialConfig
from raydistill.training.methods.shapes import Shapes
from raydistill.training.methods.values import contrastive_term, number
from raydistill.training.terms.features import MaskedFeatureTerm
from raydistill.training.terms.scores import ScoreTerm
from raydistill.training.terms.term import Term

logger = logging.getLogger(__name__)


def pmd_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """(1 - alpha - beta) CE + alpha SCORE + beta MGFD (PMD Eq. 6); without masks the feature term's weight goes back to CE.

    Raises:
        CapabilityError: masked features of unequal widths.
    """
    method = config.method
    assert isinstance(method, PMDSection)
    alpha, beta = number(method.alpha), number(method.beta)
    if config.mask_ratio == 0 and beta > 0:
        logger.info(
            "mask ratio 0: the masked-feature term is off and its weight %g goes back to pmd's contrastive term, where that is on",
            beta,
        )
        beta = 0.0
    if beta:
        shapes.require_equal_widths(
            "method pmd compares masked features unit by unit",
            "units would have none to be compared with",
            "set beta or mask_ratio to 0",
        )
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
