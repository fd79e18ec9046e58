"""The usual ways of distilling as terms: those that the others are compared with."""

from __future__ import annotations

from raydistill.config.baselines import DistilBERTSection, DKDSection, LogitsSection, PKDSection, TinyBERTSection
from raydistill.config.trial import TrialConfig
from raydistill.errors import CapabilityError
from raydistill.models.features import EMBEDDINGS
from raydistill.training.methods.shapes import Shapes
from raydistill.training.methods.values import contrastive_term, number
from raydistill.training.terms.features import PatienceTerm
from raydistill.training.terms.relations import AttentionScoreTerm
from raydistill.training.terms.scores import DecoupledTerm, DivergenceTerm, ScoreTerm
from raydistill.training.terms.states import DirectionTerm, StateTerm, projection
from raydistill.training.terms.term import Term


def none_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """CE."""
    return [contrastive_term(config, 1.0)]


def logits_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """(1 - alpha) CE + alpha KD."""
    method = config.method
    assert isinstance(method, LogitsSection)
    alpha = number(method.alpha)
    divergence: Term = (
        ScoreTerm(alpha) if method.divergence == "mse" else DivergenceTerm(alpha, number(method.temperature))
    )
    return [contrastive_term(config, 1 - alpha), divergence]


def dkd_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """CE + DKD (Zhao et al. 2022), whose weight rises over the first epochs."""
    method = config.method
    assert isinstance(method, DKDSection)
    decoupled = DecoupledTerm(
        1.0,
        number(method.temperature),
        number(method.alpha),
        number(method.beta),
        warmup_epochs=max(1, round(number(method.warmup_ratio) * config.training.epochs)),
    )
    return [contrastive_term(config, number(method.contrastive)), decoupled]


def pkd_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """(1 - alpha) CE + alpha KL + beta PT (Sun et al. 2019). The last layers are left to the scores, as in the paper.

    A student of one layer has no intermediate layer, so its patience term is off.
    """
    method = config.method
    assert isinstance(method, PKDSection)
    alpha, inner = number(method.alpha), shapes.student.layers - 1
    terms: list[Term] = [contrastive_term(config, 1 - alpha), DivergenceTerm(alpha, number(method.temperature))]
    if inner:
        matched = patience_layers(method.match, shapes)
        terms.append(PatienceTerm(number(method.beta), tuple(range(inner)), matched, pooling=method.pooling))
    return terms


def patience_layers(match: str, shapes: Shapes) -> tuple[int, ...]:
    """Teacher layers for all student layers but the last: every k-th one (`skip`), or those just below the top (`last`)."""
    if match == "skip":
        return spaced_layers(shapes)[:-1]
    return tuple(range(shapes.teacher.layers - shapes.student.layers, shapes.teacher.layers - 1))


def tinybert_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """CE + embeddings + attention scores + hidden states + KL (Jiao et al. 2020), in one stage instead of two."""
    method = config.method
    assert isinstance(method, TinyBERTSection)
    attention = number(method.attention)
    if attention:
        shapes.require_equal_heads("method tinybert compares attention scores head by head")
    own, theirs = tuple(range(shapes.student.layers)), spaced_layers(shapes)
    states: list[Term] = []
    for name, weight, layers in (
        ("embedding", method.embedding, ((EMBEDDINGS,), (EMBEDDINGS,))),
        ("hidden", method.hidden, (own, theirs)),
    ):
        projected = projection(shapes.student.width, shapes.teacher.width)
        states.append(StateTerm(number(weight), *layers, projected, name=name))
    return [
        contrastive_term(config, number(method.contrastive)),
        *states,
        AttentionScoreTerm(attention, own, theirs, shapes.student.heads),
        DivergenceTerm(number(method.prediction), number(method.temperature)),
    ]


def distilbert_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """CE + KL + 1 - cosine of the last token states (Sanh et al. 2019)."""
    method = config.method
    assert isinstance(method, DistilBERTSection)
    if method.cosine:
        shapes.require_equal_widths(
            "method distilbert compares directions of token states",
            "units would have none to be compared with",
            "set method.cosine to 0",
        )
    return [
        contrastive_term(config, number(method.contrastive)),
        DivergenceTerm(number(method.prediction), number(method.temperature)),
        DirectionTerm(number(method.cosine), shapes.student.layers - 1, shapes.teacher.layers - 1),
    ]


def spaced_layers(shapes: Shapes) -> tuple[int, ...]:
    """For each student layer the last of equally long blocks of teacher layers: TinyBERT's uniform map.

    Raises:
        CapabilityError: a teacher that is shallower than its student.
    """
    if shapes.teacher.layers < shapes.student.layers:
        raise CapabilityError(
            f"a student of {shapes.student.layers} layers that learns from a teacher of {shapes.teacher.layers}, layer by layer",
            expected="a teacher that is as deep or deeper",
            consequence="layers would have nothing to learn from",
            remedy="choose a method that maps no layers, such as minilm or logits",
        )
    return tuple(
        (layer + 1) * shapes.teacher.layers // shapes.student.layers - 1 for layer in range(shapes.student.layers)
    )
