"""What every objective must satisfy, and that every objective is asked."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor

import raydistill.objectives
from raydistill.errors import NonFiniteLossError, ShapeError
from raydistill.objectives.weighted import Weighted


def gradients(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient of the sum at every leaf; a leaf out of reach has gradient 0."""
    found = torch.autograd.grad(value.sum(), leaves, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]


def public_objectives() -> set[Any]:
    """Return every public function of the room that returns `Weighted`."""
    found = set()
    for module_info in pkgutil.iter_modules(raydistill.objectives.__path__, "raydistill.objectives."):
        module = importlib.import_module(module_info.name)
        for name, function in inspect.getmembers(module, inspect.isfunction):
            is_public = function.__module__ == module.__name__ and not name.startswith("_")
            if is_public and get_type_hints(function).get("return") is Weighted:
                found.add(function)
    return found


def test_every_objective_has_a_case(cases: Any) -> None:
    """A new objective would be trained with without anybody having checked its invariants."""
    assert {case.function for case in cases} == public_objectives()


def test_student_equal_to_teacher_gives_exactly_zero(case: Any) -> None:
    """A student that equals its teacher would be pushed away from it by rounding errors or an unlike scale."""
    if not case.has_teacher:
        assert case.call(case.tensors(0), [], "plain").mean().item() > 0.1, "declared as an exception, yet zero"
        return
    student, teacher = case.tensors(0), case.tensors(0)
    result = case.call(student, teacher, "plain")
    assert torch.equal(result.values, torch.zeros_like(result.values))
    for gradient in gradients(result.mean(), student):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("variant", ["padded", "permuted", "garbage"])
def test_what_is_not_compared_changes_nothing(case: Any, variant: str) -> None:
    """Padding, the order of candidates or a score marked as not valid would leak into values or gradients."""
    if variant in case.absent:
        pytest.skip("everything is compared")
    student, teacher = case.tensors(0), case.tensors(1)
    plain, altered = case.call(student, teacher, "plain"), case.call(student, teacher, variant)
    rows = plain.values.shape[0]
    torch.testing.assert_close(altered.values[:rows], plain.values, atol=1e-6, rtol=0)
    torch.testing.assert_close(altered.weights[:rows], plain.weights)
    if "none" not in case.absent:
        assert not altered.weights[rows:].any(), "a text that is padding counts in the mean"
        assert bool(altered.values.isfinite().all())
    expected = gradients(plain.values * plain.weights, student)
    received = gradients(altered.values[:rows] * plain.weights, student)
    torch.testing.assert_close(received, expected, atol=1e-6, rtol=0)


def test_mean_is_the_mean_of_the_rows(case: Any) -> None:
    """A hidden reduction over the batch would make workers of unequal batches disagree with one worker."""
    result = case.call(case.tensors(0), case.tensors(1), "plain")
    assert not result.weights.requires_grad
    pairs = list(zip(result.values.tolist(), result.weights.tolist(), strict=True))
    by_hand = sum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs)
    assert result.mean().item() == pytest.approx(by_hand, rel=1e-6)


def test_a_row_does_not_depend_on_its_neighbours(case: Any) -> None:
    """A normalisation over the batch would change an example's loss with its company."""
    student, teacher = case.tensors(0), case.tensors(1)
    alone, among = case.call(student, teacher, "one_row"), case.call(student, teacher, "plain")
    torch.testing.assert_close(alone.values[0], among.values[0])
    torch.testing.assert_close(alone.weights[0], among.weights[0])


def test_no_gradient_reaches_the_teacher(case: Any) -> None:
    """The teacher would drift towards its student, and the next trial would learn from something else."""
    student, teacher = case.tensors(0), case.tensors(1)
    gradient = torch.autograd.grad(case.call(student, teacher, "plain").mean(), student + teacher, allow_unused=True)
    assert all(part is not None and bool(part.any()) for part in gradient[: len(student)])
    assert all(part is None for part in gradient[len(student) :])


@pytest.mark.parametrize("variant", ["none", "lone", "one_row", "short"])
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_edge_cases_are_finite(case: Any, variant: str) -> None:
    """A row with nothing to compare would turn the whole batch's gradient into NaN."""
    if variant in case.absent:
        pytest.skip("everything is compared")
    student, teacher = case.tensors(0), case.tensors(1)
    with torch.autograd.detect_anomaly(check_nan=True):  # finds a NaN even if a later mask hides it
        result = case.call(student, teacher, variant)
        parts = [result.values, result.weights, result.mean(), *gradients(result.mean(), student)]
    assert all(bool(part.isfinite().all()) for part in parts)
    if variant == "none":
        assert result.mean().item() == 0.0
        assert not any(bool(part.any()) for part in gradients(result.mean(), student))


def test_gradcheck(case: Any) -> None:
    """A detach or an in-place operation too many would train on a wrong gradient without any sign."""
    if "gradcheck" in case.absent:
        pytest.skip("a part of it is taken as constant")
    student, teacher = case.tensors(0, torch.float64), [x.detach() for x in case.tensors(1, torch.float64)]
    assert torch.autograd.gradcheck(lambda *leaves: case.call(list(leaves), teacher, "plain").values, tuple(student))
    assert torch.autograd.gradcheck(lambda *leaves: case.call(list(leaves), teacher, "plain").mean(), tuple(student))


def test_float32_agrees_with_float64(case: Any) -> None:
    """A badly conditioned formula would only be right in double precision."""
    double = case.call(case.tensors(0, torch.float64), case.tensors(1, torch.float64), "plain")
    single = case.call(case.tensors(0), case.tensors(1), "plain")
    assert double.values.dtype == torch.float64
    assert single.values.dtype == torch.float32
    torch.testing.assert_close(single.values.double(), double.values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "autocast"), [(torch.bfloat16, False), (torch.bfloat16, True), (torch.float16, False)], ids=str
)
def test_half_precision_costs_only_the_rounding_of_the_inputs(case: Any, dtype: torch.dtype, autocast: bool) -> None:
    """Differences of near-equal scores would vanish if they were taken in half precision.

    Tolerance: 1e-6 against float32 on the same rounded inputs; 3 % and 0.03 against the unrounded ones (8 bits, squared
        differences).
    """
    student, teacher = case.tensors(0, dtype), case.tensors(1, dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        half = case.call(student, teacher, "plain")
    rounded = case.call([x.float() for x in student], [x.float() for x in teacher], "plain")
    full = case.call(case.tensors(0), case.tensors(1), "plain")
    assert half.values.dtype == torch.float32
    torch.testing.assert_close(half.values, rounded.values, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(half.values, full.values, atol=0.03, rtol=0.03)


def test_only_contrastive_objectives_know_a_margin() -> None:
    """A margin in a score term would teach the student to differ from its teacher by that margin."""
    with_margin = {f.__name__ for f in public_objectives() if "margin" in inspect.signature(f).parameters}
    assert with_margin == {"info_nce", "both_directions"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_teacher_that_is_not_finite_is_refused(case: Any, bad: float) -> None:
    """A broken teacher would ruin every weight of the student in one step."""
    if not case.has_teacher:
        pytest.skip("no teacher")
    student, teacher = case.tensors(0), [x.detach() for x in case.tensors(1)]
    teacher[0][0, 0] = bad
    with pytest.raises(NonFiniteLossError, match="teacher"):
        case.call(student, teacher, "plain")


def test_teachers_that_would_broadcast_are_refused(case: Any) -> None:
    """One teacher row against many student rows gives a plausible number and teaches nonsense."""
    if not case.has_teacher:
        pytest.skip("no teacher")
    student, teacher = case.tensors(0), case.tensors(1)
    for narrowed in (teacher[0][:1], teacher[0][:, :1], teacher[0][None]):
        with pytest.raises(ShapeError, match="expected"):
            case.call(student, [narrowed, *teacher[1:]], "plain")
