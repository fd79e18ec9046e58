"""Joint distillation and quantisation: its section as terms, and as what gives the student fewer bits."""

from __future__ import annotations

from raydistill.config.dq import DQSection
from raydistill.config.trial import TrialConfig
from raydistill.models.features import EMBEDDINGS
from raydistill.objectives import relations
from raydistill.students.quantization import Quantization
from raydistill.students.quantized import Formats
from raydistill.students.reshaping import Reshaper
from raydistill.training.methods.baselines import spaced_layers
from raydistill.training.methods.shapes import Shape, Shapes
from raydistill.training.methods.values import contrastive_term, number, whole_number
from raydistill.training.terms.relations import AttentionScoreTerm
from raydistill.training.terms.scores import ScoreTerm
from raydistill.training.terms.states import StateTerm
from raydistill.training.terms.term import Term


def dq_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """CE + logits + attention probabilities + states, each a mean squared error (DQ-BART, Li et al. 2022).

    Raises:
        CapabilityError: models that cannot be compared layer by layer, head by head or unit by unit, as far as a term of some weight does.
    """
    method = config.method
    assert isinstance(method, DQSection)
    prediction, attention, hidden = (number(weight) for weight in (method.prediction, method.attention, method.hidden))
    terms: list[Term] = [
        contrastive_term(config, number(method.contrastive)),
        ScoreTerm(prediction, space="logits", name="prediction"),
    ]
    own = tuple(range(shapes.student.layers))
    if attention or hidden:
        # A layer that began as one of its teacher's is held to that one.
        theirs = config.layer_map if config.init == "teacher" else spaced_layers(shapes)
    if attention:
        shapes.require_equal_heads("method dq compares attention head by head")
        heads = shapes.student.heads
        terms.append(AttentionScoreTerm(attention, own, theirs, heads, objective=relations.attention_share_mse))
    if hidden:
        shapes.require_equal_widths(
            "method dq compares token states", "units would have none to be compared with", "set method.hidden to 0"
        )
        terms.append(StateTerm(hidden, (EMBEDDINGS, *own), (EMBEDDINGS, *theirs)))
    return terms


def dq_reshaper(config: TrialConfig, shape: Shape, steps: int) -> Reshaper:
    """What rounds the student's numbers."""
    method = config.method
    assert isinstance(method, DQSection)
    weights = whole_number(method.weight_bits)
    embeddings = weights if method.embedding_bits is None else whole_number(method.embedding_bits)
    formats = Formats(weights, embeddings, whole_number(method.activation_bits))
    return Quantization(formats, number(method.range_memory))
