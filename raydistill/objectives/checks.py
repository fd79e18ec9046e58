"""The refusals and the number format that all objectives share.

A tensor of a slightly wrong shape broadcasts to a plausible number. So every objective checks its inputs here, before
any arithmetic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raydistill.errors import ConfigError, NonFiniteLossError, ShapeError


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float64 if any tensor is float64, else float32: half precision loses small differences."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def require_shape(name: str, tensor: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    """Refuse a tensor that is not exactly of `shape`.

    Args:
        name: the argument's name.
        tensor: the argument.
        shape: the expected sizes.
        meaning: the words for the sizes, such as "(batch, candidates)".

    Raises:
        ShapeError: any other shape, even one that would broadcast.
    """
    if tuple(tensor.shape) != shape:
        raise ShapeError(
            f"{name} has shape {tuple(tensor.shape)}",
            expected=f"{meaning} = {shape}",
            consequence="it would fail, or broadcast to a wrong but plausible value",
            remedy=f"pass {name} with exactly this shape",
        )


def require_matrix(name: str, tensor: Tensor, meaning: str) -> None:
    """Refuse anything but a two-dimensional tensor of a floating type."""
    if tensor.ndim != 2 or not tensor.is_floating_point():
        raise ShapeError(
            f"{name} has shape {tuple(tensor.shape)} and type {tensor.dtype}",
            expected=f"a floating tensor {meaning}",
            consequence="rows and columns would be confused",
            remedy=f"reshape {name} to two dimensions, one row per example",
        )


def require_same_width(student: Tensor, teacher: Tensor) -> None:
    """Refuse student and teacher states (rows, hidden) that differ in shape; unequal widths need a projection."""
    if student.ndim == teacher.ndim == 2 and student.shape[1] != teacher.shape[1]:
        raise ShapeError(
            f"student states are {student.shape[1]} wide and teacher states {teacher.shape[1]}",
            expected="the same hidden width",
            consequence="the states could not be compared unit by unit",
            remedy="give the term a learned projection to the teacher's width, or choose a student of that width",
        )
    require_shape("teacher", teacher, tuple(student.shape), "the student's shape (rows, hidden)")


def require_mask(name: str, mask: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    """Refuse a mask that is not bool or not exactly of `shape`; True means: is compared."""
    require_shape(name, mask, shape, meaning)
    if mask.dtype != torch.bool:
        raise ShapeError(
            f"{name} has type {mask.dtype}",
            expected="torch.bool, True = is compared",
            consequence="inverting a mask of numbers is arithmetic and selects the wrong entries",
            remedy=f"pass {name}.bool(), after making sure which value means compared",
        )


def require_index(name: str, index: Tensor, length: int, bound: int, meaning: str) -> None:
    """Refuse an index that is not int64 of shape (length,) with every entry in [0, bound).

    Negative entries are refused too: they would silently count from the end. Entries that lie on a GPU are not looked at, because to look is to wait for it.
    """
    require_shape(name, index, (length,), meaning)
    if index.dtype != torch.int64:
        raise ShapeError(
            f"{name} has type {index.dtype}",
            expected="torch.int64",
            consequence="a bool or byte index selects by mask and not by position",
            remedy=f"pass {name}.long()",
        )
    if length and not index.is_cuda and not bool(((index >= 0) & (index < bound)).all()):
        raise ShapeError(
            f"{name} reaches from {int(index.min())} to {int(index.max())}",
            expected=f"positions in [0, {bound})",
            consequence="a row would be compared with somebody else's entry",
            remedy=f"build {name} from the same batch as the other tensors",
        )


def require_finite_teacher(name: str, teacher: Tensor, compared: Tensor | None = None) -> None:
    """Refuse NaN and infinity among the teacher's compared entries.

    Args:
        name: what the teacher gave.
        teacher: any shape.
        compared: bool, same shape; None = all. Entries that are not compared may hold anything.

    Entries on a GPU are not looked at, because to look is to wait for it: there the loss becomes NaN, which the trainer refuses.

    Raises:
        NonFiniteLossError: a compared entry is NaN or infinite.
    """
    if teacher.is_cuda:
        return
    finite = torch.isfinite(teacher) if compared is None else torch.isfinite(teacher) | ~compared
    if not bool(finite.all()):
        raise NonFiniteLossError(
            f"{int((~finite).sum())} of {finite.numel()} entries of the teacher's {name} are NaN or infinite",
            expected="finite numbers wherever student and teacher are compared",
            consequence="the loss would be NaN and every weight of the student with it",
            remedy="check the teacher's checkpoint and precision; mark what the teacher does not score as not valid",
        )


def positive_scalar(name: str, value: float | Tensor) -> float | Tensor:
    """Return a multiplier that is one positive number.

    Raises:
        ShapeError: a tensor that is not a scalar, because it would broadcast over columns.
        ConfigError: a number that is not finite and positive.
    """
    if isinstance(value, Tensor):
        require_shape(name, value, (), "a scalar")
        return value
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(
            f"{name} is {value}",
            expected="a finite number above 0",
            consequence="the order of the candidates would be lost or turned round",
            remedy=f"set {name} to a positive number",
        )
    return float(value)


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not among `choices`."""
    if value not in choices:
        raise ConfigError(
            f"{name} is {value!r}",
            expected=" or ".join(repr(choice) for choice in choices),
            consequence="another formula than the intended one would be trained",
            remedy=f"set {name} to one of these",
        )
