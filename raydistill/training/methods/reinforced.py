"""How the section of reinforced distillation becomes terms."""

from __future__ import annotations

import logging

from raydistill.config.reinforced import ReinforcedSection
from raydistill.config.trial import TrialConfig
from raydistill.training.methods.shapes import Shapes
from raydistill.training.methods.values import contrastive_term, number
from raydistill.training.terms.policy import Policy
from raydistill.training.terms.selecting import SelectedTeachersTerm
from raydistill.training.terms.term import Term

logger = logging.getLogger(__name__)


def warmup_epochs(ratio: float, epochs: int) -> int:
    """Whole epochs in which all teachers are on: some where any are asked for, and never all, because the policy would have no say."""
    return min(max(1, round(ratio * epochs)), epochs - 1) if ratio > 0 else 0


def reinforced_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """(1 - alpha) CE + alpha KD of the chosen teachers (RL-KD)."""
    method = config.method
    assert isinstance(method, ReinforcedSection)
    if not config.others:
        logger.info("one teacher: there is nothing to choose, and this is logit distillation with the same alpha")
    selected = SelectedTeachersTerm(
        number(method.alpha),
        Policy(shapes.student.width),
        number(method.temperature),
        config.seed,
        warmup_epochs=warmup_epochs(number(method.warmup_ratio), config.training.epochs),
        objective=method.objective,
        weighting=method.weights,
        reward=method.reward,
    )
    return [contrastive_term(config, 1 - number(method.alpha)), selected]
