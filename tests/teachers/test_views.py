from __future__ import annotations

import pytest
import torch

from raydistill.data.texts import Texts
from raydistill.errors import CapabilityError
from raydistill.models.biencoder import BiEncoder
from raydistill.models.features import Needs
from raydistill.teachers.views import LiveTeacher, NoTeacher


def test_teacher_is_frozen_and_in_evaluation_mode(model: BiEncoder, texts: tuple[Texts, Texts]) -> None:
    """A teacher that drops units, or learns from its student."""
    teacher = LiveTeacher(model)
    one, other = (teacher.encode(texts[0], "query", Needs(frozenset({3}))) for _ in range(2))
    assert torch.equal(one.vectors, other.vectors)
    assert torch.equal(one.states[3], other.states[3])
    assert not one.vectors.requires_grad
    assert not one.states[3].requires_grad
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert teacher.inverse_temperature == pytest.approx(10.0)
    assert teacher.num_layers == 4


def test_teacher_outputs_may_be_saved_for_the_students_backward_pass(
    model: BiEncoder, texts: tuple[Texts, Texts]
) -> None:
    """Outputs of inference mode, which autograd refuses as soon as they are multiplied by something trained."""
    vectors = LiveTeacher(model).encode(texts[0], "query", Needs()).vectors
    weight = torch.ones(16, requires_grad=True)
    (vectors * weight).sum().backward()
    assert weight.grad is not None


def test_asking_where_there_is_no_teacher_is_refused(texts: tuple[Texts, Texts]) -> None:
    """A method that wants a teacher, assembled without one, and trained on nothing."""
    with pytest.raises(CapabilityError, match="without a teacher"):
        NoTeacher().encode(texts[0], "query", Needs())
    assert (NoTeacher().num_layers, NoTeacher().inverse_temperature) == (0, 1.0)
