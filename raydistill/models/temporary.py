"""Parts of a model that are there while it learns, and belong to no model that is stored."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


class Temporary(nn.Module):
    """A module that is trained with a student and left behind; whoever puts it there keeps what training needs to go on."""


def is_lasting(model: nn.Module) -> Callable[[str], bool]:
    """Tells of the name of a model's tensor whether it stays: it belongs to no temporary module."""
    gone = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, Temporary))
    return lambda name: not name.startswith(gone)
