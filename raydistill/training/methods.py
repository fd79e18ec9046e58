"""The assembly: a method's name to its parts. The one place below orchestration where a configuration becomes terms."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from raydistill.config.methods import LogitsSection, PKDSection, PMDSection
from raydistill.config.trial import TrialConfig
from raydistill.training.feature_terms import MaskedFeatureTerm, PatienceTerm
from raydistill.training.terms import ContrastiveTerm, DivergenceTerm, ScoreTerm, Term

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Depths:
    """Layers of student and teacher; teacher 0 = there is none."""

    student: int
    teacher: int


def assemble(config: TrialConfig, depths: Depths) -> tuple[Term, ...]:
    """The terms of a trial. Terms of weight zero are left out: they would cost a teacher pass and teach nothing."""
    terms = METHODS[config.method.name](config, depths)
    return tuple(term for term in terms if term.weight != 0)


def _contrastive(config: TrialConfig, weight: float, reduction: str = "mean") -> ContrastiveTerm:
    return ContrastiveTerm(
        weight=weight,
        margin=config.contrastive.margin,
        reduction="sum" if reduction == "sum" else "mean",
        pre_batch_weight=config.contrastive.pre_batch_weight,
    )


def _none(config: TrialConfig, depths: Depths) -> list[Term]:
    return [_contrastive(config, 1.0)]


def _pmd(config: TrialConfig, depths: Depths) -> list[Term]:
    """(1 - alpha - beta) CE + alpha SCORE + beta MGFD (PMD Eq. 6); without masks the feature term's weight goes back to CE."""
    method = config.method
    assert isinstance(method, PMDSection)
    alpha, beta = _number(method.alpha), _number(method.beta)
    if config.mask_ratio == 0 and beta > 0:
        logger.info(
            "mask ratio 0: the masked-feature term is off and its weight %g goes back to the contrastive term", beta
        )
        beta = 0.0
    return [
        _contrastive(config, 1 - alpha - beta, "sum" if method.preset == "reference" else "mean"),
        ScoreTerm(alpha, space=method.score_space),
        MaskedFeatureTerm(
            beta,
            student_layer=depths.student - 1,
            teacher_layer=depths.teacher - 1,
            preset=method.preset,
            over_hidden=method.over_hidden,
        ),
    ]


def _logits(config: TrialConfig, depths: Depths) -> list[Term]:
    """(1 - alpha) CE + alpha KD."""
    method = config.method
    assert isinstance(method, LogitsSection)
    alpha = _number(method.alpha)
    divergence: Term = (
        ScoreTerm(alpha) if method.divergence == "mse" else DivergenceTerm(alpha, _number(method.temperature))
    )
    return [_contrastive(config, 1 - alpha), divergence]


def _pkd(config: TrialConfig, depths: Depths) -> list[Term]:
    """(1 - alpha) CE + alpha KL + beta PT (Sun et al. 2019). The last layers are left to the scores, as in the paper.

    A student of one layer has no intermediate layer, so its patience term is off.
    """
    method = config.method
    assert isinstance(method, PKDSection)
    alpha, inner = _number(method.alpha), depths.student - 1
    terms: list[Term] = [_contrastive(config, 1 - alpha), DivergenceTerm(alpha, _number(method.temperature))]
    if inner:
        matched = patience_layers(method.match, depths)
        terms.append(PatienceTerm(_number(method.beta), tuple(range(inner)), matched, pooling=method.pooling))
    return terms


def patience_layers(match: str, depths: Depths) -> tuple[int, ...]:
    """Teacher layers for all student layers but the last: every k-th one (`skip`), or those just below the top (`last`)."""
    if match == "skip":
        return tuple((i + 1) * depths.teacher // depths.student - 1 for i in range(depths.student - 1))
    return tuple(range(depths.teacher - depths.student, depths.teacher - 1))


def _number(value: object) -> float:
    """A resolved value: planning replaces every searched value before a trial begins."""
    assert isinstance(value, (int, float)), f"unresolved {value!r} reached a trial"
    return float(value)


METHODS: dict[str, Callable[[TrialConfig, Depths], list[Term]]] = {
    "pmd": _pmd,
    "logits": _logits,
    "pkd": _pkd,
    "none": _none,
}
