"""What the assembly of several methods needs: a section's resolved values, and the contrastive term."""

from __future__ import annotations

from raydistill.config.trial import TrialConfig
from raydistill.training.terms.term import ContrastiveTerm


def contrastive_term(config: TrialConfig, weight: float, reduction: str = "mean") -> ContrastiveTerm:
    """InfoNCE as the configuration has it."""
    return ContrastiveTerm(
        weight=weight,
        margin=config.contrastive.margin,
        reduction="sum" if reduction == "sum" else "mean",
        pre_batch_weight=config.contrastive.pre_batch_weight,
    )


def number(value: object) -> float:
    """A resolved value: planning replaces every searched value before a trial begins."""
    assert isinstance(value, (int, float)), f"unresolved {value!r} reached a trial"
    return float(value)


def whole_number(value: object) -> int:
    """A resolved count."""
    assert isinstance(value, int), f"unresolved {value!r} reached a trial"
    return value
