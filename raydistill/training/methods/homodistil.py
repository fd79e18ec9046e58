"""HomoDistil as parts: the terms that hold a student to the teacher it began as, and what prunes it."""

from __future__ import annotations

from torch import nn

from raydistill.config.homodistil import HomoDistilSection
from raydistill.config.trial import TrialConfig
from raydistill.errors import CapabilityError
from raydistill.objectives import relations
from raydistill.students.keep_ratio import KeepSchedule
from raydistill.students.pruning import Pruning
from raydistill.training.methods.shapes import Shape, Shapes
from raydistill.training.methods.values import contrastive_term, number, whole_number
from raydistill.training.terms.relations import AttentionScoreTerm
from raydistill.training.terms.scores import DivergenceTerm
from raydistill.training.terms.states import StateTerm, projection
from raydistill.training.terms.term import Term


def homodistil_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """CE + KL + hidden states + attention (Liang et al. 2023), each of the student's layers held to the one of its teacher that it began as."""
    method = config.method
    assert isinstance(method, HomoDistilSection)
    if config.init != "teacher":
        raise CapabilityError(
            "method homodistil with a student that starts from the pre-trained encoder",
            expected="init: teacher",
            consequence="it would be pruned towards a teacher that it never was",
            remedy="set init: teacher in the grade",
        )
    shapes.require_equal_heads("method homodistil compares attention head by head")
    own, theirs = tuple(range(shapes.student.layers)), config.layer_map
    projections = nn.ModuleList(projection(shapes.student.width, shapes.teacher.width) for _ in own)
    return [
        contrastive_term(config, number(method.contrastive)),
        DivergenceTerm(number(method.prediction), number(method.temperature), space="cosine"),
        StateTerm(number(method.hidden), own, theirs, projections, "sum"),
        AttentionScoreTerm(
            number(method.attention),
            own,
            theirs,
            shapes.student.heads,
            objective=relations.attention_share_mse,
            reduction="sum",
        ),
    ]


def pruning_of(config: TrialConfig, shape: Shape, steps: int) -> Pruning:
    """What brings the student to the sizes that are asked for.

    Raises:
        CapabilityError: its parts are not known.
    """
    method = config.method
    assert isinstance(method, HomoDistilSection)
    Shapes(shape).require_open("method homodistil prunes an encoder's parts")
    schedule = KeepSchedule.over(steps, number(method.begin), number(method.end))
    intermediate = None if method.intermediate is None else whole_number(method.intermediate)
    return Pruning(whole_number(method.width), intermediate, schedule)
