"""MiniLM and MiniLMv2 as terms."""

from __future__ import annotations

from raydistill.config.minilm import MiniLMSection
from raydistill.config.trial import TrialConfig
from raydistill.errors import CapabilityError
from raydistill.training.methods.shapes import Shapes
from raydistill.training.methods.values import contrastive_term, number, whole_number
from raydistill.training.terms.relations import RelationTerm, Which
from raydistill.training.terms.term import Term


def minilm_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """CE + relations of one layer: attention and values (MiniLM), or queries, keys and values each with itself (MiniLMv2)."""
    method = config.method
    assert isinstance(method, MiniLMSection)
    taught = shapes.teacher.layers - 1 if method.teacher_layer is None else whole_number(method.teacher_layer)
    if taught >= shapes.teacher.layers:
        raise CapabilityError(
            f"method.teacher_layer is {taught}, and the teacher has {shapes.teacher.layers} layers",
            expected=f"0 to {shapes.teacher.layers - 1}, or null for its last",
            consequence="there would be nothing to learn from",
            remedy="leave teacher_layer out, or give the grade a method of its own",
        )
    between: tuple[tuple[str, tuple[Which, Which]], ...]
    if method.variant == "minilm":
        shapes.require_equal_heads("method minilm compares attention head by head")
        between, heads = (("attention", ("queries", "keys")), ("value", ("values", "values"))), shapes.student.heads
    else:
        shapes.require_open("method minilm compares attention")
        between = (("query", ("queries", "queries")), ("key", ("keys", "keys")), ("value", ("values", "values")))
        heads = _relation_heads(whole_number(method.relation_heads or shapes.student.heads), shapes)
    last = shapes.student.layers - 1
    return [
        contrastive_term(config, number(method.contrastive)),
        *(
            RelationTerm(number(method.relation), pair, last, taught, heads, f"{name}_relation")
            for name, pair in between
        ),
    ]


def _relation_heads(heads: int, shapes: Shapes) -> int:
    widths = shapes.student.width, shapes.teacher.width
    if any(width % heads for width in widths):
        raise CapabilityError(
            f"{heads} relation heads for a student {widths[0]} wide and a teacher {widths[1]} wide",
            expected="a number that divides both widths",
            consequence="heads would share units",
            remedy="set method.relation_heads to a divisor, such as the encoder's own number of heads",
        )
    return heads
