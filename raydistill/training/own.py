"""What terms learn for themselves: projections and the like, trained beside the student, saved with the trial, and left behind when it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from raydistill.students.reshaping import under
from raydistill.training.randomness import mix
from raydistill.training.terms.term import Term

PREFIX = "own"
Own = Mapping[str, nn.Module]
"""By the name of its term."""


def own_of(terms: Sequence[Term]) -> dict[str, nn.Module]:
    """What the terms have of their own."""
    return {term.name: term.own for term in terms if term.own is not None}


def named_parameters(own: Own) -> Iterator[tuple[str, nn.Parameter]]:
    """What an optimizer trains of it, under names that no model has."""
    for name, module in own.items():
        yield from module.named_parameters(f"{PREFIX}.{name}")


def own_tensors(own: Own) -> dict[str, Tensor]:
    """All of it as a checkpoint keeps it, on the CPU."""
    return {
        f"{PREFIX}.{name}.{key}": tensor.detach().to("cpu").clone().contiguous()
        for name, module in own.items()
        for key, tensor in module.state_dict().items()
    }


def load_own(own: Own, tensors: Mapping[str, Tensor]) -> None:
    """Take back what `own_tensors` gave."""
    for name, module in own.items():
        module.load_state_dict(under(tensors, f"{PREFIX}.{name}."))


@contextmanager
def drawn_from(seed: int, name: str) -> Iterator[None]:
    """Have what is made in here drawn from a seed and a term's name alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, name))
        yield
