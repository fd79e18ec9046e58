"""GradCache: a contrastive batch of any size in a given memory, with the loss and the gradients of the plain step.

How a cached step works:

1. All texts are encoded in micro-batches without a graph. The outputs that terms look at become leaves.
2. The terms are computed from the leaves. Backpropagation stops there, and leaves the gradient of the loss with respect to each output:
   the cache. What the terms use besides (the temperature) gets its gradient now.
3. Each micro-batch is encoded again, with a graph, and its cached gradients are propagated through it. One graph exists at a time.

The price is one more forward pass of the student, and where gradients are measured for each term, once an epoch, step 3 for each of them.

Source:
    Gao et al. 2021, arXiv 2101.06983, section 3. There the outputs are vectors alone; here they are also token states of inner layers where a
    term asks for them, in several views of a batch. There the random state of each micro-batch is saved in the first pass and put back in the
    second; here dropout is seeded for each micro-batch, in the plain step too, so that a step may be taken either way. Vectors of other
    workers come from `gather.py` in step 2, and nothing is exchanged in step 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from raydistill.data.texts import Texts, token_positions
from raydistill.devices import sent
from raydistill.models.biencoder import BiEncoder, Tower
from raydistill.models.features import Feature, Needs, TowerOutput
from raydistill.training.encoding import Reader
from raydistill.training.randomness import mix

Gradients = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class _Held:
    """Texts that were encoded without a graph, and the leaves that stand for their outputs."""

    view: str
    texts: Texts
    tower: Tower
    leaves: TowerOutput


class StudentPass:
    """The student's way through one step: encoding, and the way back of the gradients.

    Args:
        student: the model.
        seeds: what the step's randomness is a function of: the trial's seed, the step, the worker.
        cached: whether graphs are made anew for the way back (GradCache) or kept from the way there.
    """

    def __init__(self, student: BiEncoder, seeds: tuple[int, ...], *, cached: bool) -> None:
        self.student, self.seeds, self.cached = student, seeds, cached
        self._held: list[_Held] = []

    def reader(self, view: str) -> Reader:
        """The student, for the texts of a view."""
        return Reader(partial(self.encode, view), self.student.reads_at_once)

    def encode(self, view: str, texts: Texts, tower: Tower, needs: Needs) -> TowerOutput:
        """The student's outputs for the texts of a view, with gradient."""

        def seed(part: int) -> None:
            self._seed(view, tower, part)

        if not self.cached:
            return self.student.encode(texts, tower, needs, seed)
        with torch.no_grad():
            output = self.student.encode(texts, tower, needs, seed)
        leaves = TowerOutput(
            output.vectors.detach().requires_grad_(),
            {layer: states.detach().requires_grad_() for layer, states in output.states.items()},
        )
        self._held.append(_Held(view, texts, tower, leaves))
        return leaves

    def gradients(self, value: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Gradient of a scalar of this step by each parameter, zero where it does not depend on it; the graph stays as it is."""
        found: Gradients = torch.autograd.grad(
            value, [*parameters, *self._leaves], retain_graph=True, allow_unused=True
        )
        total = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(parameters, found, strict=False)
        ]

        def add(outputs: list[Tensor], cached: list[Tensor]) -> None:
            nonlocal total
            parts: Gradients = torch.autograd.grad(outputs, parameters, cached, allow_unused=True)
            total = [whole if part is None else whole + part for whole, part in zip(total, parts, strict=True)]

        self._encode_again(found[len(parameters) :], add)
        return total

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of the loss to that of each parameter; the graph is given up."""
        loss.backward()  # type: ignore[no-untyped-call]
        self._encode_again(tuple(leaf.grad for leaf in self._leaves), torch.autograd.backward)

    @property
    def _leaves(self) -> list[Tensor]:
        return [leaf for held in self._held for leaf in (held.leaves.vectors, *held.leaves.states.values())]

    def _encode_again(self, gradients: Gradients, propagate: Callable[[list[Tensor], list[Tensor]], None]) -> None:
        """Give each micro-batch's outputs, with graph, to `propagate`, and with them their part of `gradients` (one per leaf)."""
        rest = iter(gradients)
        for held in self._held:
            vectors, states = next(rest), {layer: next(rest) for layer in held.leaves.states}
            if vectors is None and all(gradient is None for gradient in states.values()):
                continue
            for number, part in enumerate(self.student.micro_batches(held.texts.lengths)):
                self._seed(held.view, held.tower, number)
                # Nothing here keeps the outputs: a part's graph must be gone when the next one is encoded.
                propagate(*self._encode_part(held, part, vectors, states))

    def _encode_part(
        self, held: _Held, part: Tensor, vectors: Tensor | None, states: dict[Feature, Tensor | None]
    ) -> tuple[list[Tensor], list[Tensor]]:
        wanted = {layer: gradient for layer, gradient in states.items() if gradient is not None}
        output = self.student.encode_part(held.texts.select(part), held.tower, Needs(frozenset(wanted)))
        device = output.vectors.device
        tokens = sent(token_positions(held.texts.starts[part], held.texts.lengths[part]), device)
        outputs = [output.states[layer] for layer in wanted]
        gradients = [gradient[tokens] for gradient in wanted.values()]
        if vectors is not None:
            outputs, gradients = [*outputs, output.vectors], [*gradients, vectors[sent(part, device)]]
        return outputs, gradients

    def _seed(self, view: str, tower: Tower, part: int) -> None:
        number = mix(*self.seeds, view, tower, part)
        # torch.manual_seed would seed devices of all kinds, which takes 0.3 ms: as long as a small micro-batch.
        torch.default_generator.manual_seed(number)
        if self.student.log_inverse_temperature.is_cuda:
            torch.cuda.manual_seed(number)
