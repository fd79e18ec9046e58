"""Several workers, one batch: who encodes which texts, and how all get all vectors with gradient.

Every worker knows the whole batch, encodes its share of the distinct texts, and computes the whole loss from the gathered vectors. The gather
returns to each worker the gradient of its own share times the number of workers, so that the *mean* of the workers' gradients, which is then
taken for all parameters, equals the gradient of one worker with the whole batch; parameters used after the gather (the temperature) have equal
gradients everywhere, and their mean is right as it is.

A worker that runs out of memory alone would leave the others waiting in an exchange for ever. Where a step or a validation may be done again,
workers therefore say before every exchange that they are well, and one that is not says so in the place of its next exchange: all learn of it at
the same point. Words go from processor to processor (Gloo), also where tensors go from GPU to GPU (NCCL): a word that lay on a GPU would be a wait for
everything the GPU still has to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raydistill.data.micro_batches import longest_first
from raydistill.devices import sent


class OtherWorkerError(Exception):
    """Another worker cannot go on with what all are at."""


@dataclass(frozen=True)
class World:
    """The workers of a trial.

    Args:
        rank: this worker's number, from zero.
        size: how many there are.
        careful: whether workers ask each other before an exchange if all can take part.
    """

    rank: int = 0
    size: int = 1
    careful: bool = False

    @classmethod
    def alone(cls) -> World:
        """One worker."""
        return cls()

    @classmethod
    def from_process_group(cls) -> World:
        """The default process group's workers, all of which call; one worker where there is no group."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        if (device := _exchange_device()).type == "cuda":
            # NCCL takes hundreds of megabytes when it is first used. In a step a worker that has not got them would leave the others waiting for it.
            dist.all_reduce(torch.zeros(1, device=device))
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, lengths: Tensor) -> Share:
        """Divide texts of these lengths, so that all workers get nearly equally many tokens."""
        if self.size == 1:
            return Share(self, (torch.arange(len(lengths)),))
        order = longest_first(lengths)
        # Back and forth (0 1 2 2 1 0 0 1 ...) evens out the sums of a falling sequence.
        turn = torch.arange(len(order)) % (2 * self.size)
        owner = torch.where(turn < self.size, turn, 2 * self.size - 1 - turn)
        return Share(self, tuple(order[owner == rank] for rank in range(self.size)))

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Each tensor's mean over the workers, in one exchange; all workers must bring the same shapes in the same order."""
        if self.size == 1:
            return list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self.average(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def average(self, tensor: Tensor) -> None:
        """Put a tensor's mean over the workers into its place; all must bring the same shape and type."""
        if self.size == 1:
            return
        exchanged = tensor.to(_exchange_device())
        self.agree_to_go_on()
        dist.all_reduce(exchanged)
        # Where it was exchanged from its own place, nothing is copied.
        tensor.copy_(exchanged).div_(self.size)

    def total(self, tensor: Tensor) -> Tensor:
        """Element-wise sum over the workers; all must bring the same shape and type."""
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def largest(self, tensor: Tensor) -> Tensor:
        """Element-wise maximum over the workers; all must bring the same shape and type."""
        return self._reduced(tensor, dist.ReduceOp.MAX)

    def _reduced(self, tensor: Tensor, how: Any) -> Tensor:
        if self.size == 1:
            return tensor
        # Always a copy: what the worker brings stays as it is.
        found = tensor.detach().to(_exchange_device(), copy=True).contiguous()
        self.agree_to_go_on()
        dist.all_reduce(found, how)
        return found.to(tensor.device)

    def agree_to_go_on(self, well: bool = True) -> None:
        """Say whether this worker can go on, and hear whether all can; nothing where workers are not careful.

        Raises:
            OtherWorkerError: this one is well, and another one is not.
        """
        if self.size == 1 or not self.careful:
            return
        unwell = torch.tensor([0 if well else 1])
        dist.all_reduce(unwell)
        if well and int(unwell):
            raise OtherWorkerError

    def anyone(self, says: bool) -> bool:
        """Whether any of the workers says so; all must ask."""
        if self.size == 1:
            return says
        said = torch.tensor([int(says)])
        dist.all_reduce(said)
        return bool(said)

    def agree(self, text: str) -> str:
        """The first worker's text, on all workers."""
        if self.size == 1:
            return text
        content = torch.tensor(list(text.encode()), dtype=torch.uint8)
        length = torch.tensor([len(content)])
        dist.broadcast(length, 0)
        buffer = content if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(buffer, 0)
        return bytes(buffer.tolist()).decode()

    def barrier(self) -> None:
        """Wait for all workers; not for what their GPUs still have to do."""
        self.anyone(False)


@dataclass(frozen=True)
class Share:
    """Which texts each worker encodes; `positions[rank]` are positions in the batch."""

    world: World
    positions: tuple[Tensor, ...]

    @property
    def mine(self) -> Tensor:
        """Positions of this worker's texts."""
        return self.positions[self.world.rank]

    def collect(self, local: Tensor) -> Tensor:
        """All workers' rows in the batch's order, with gradient to this worker's own rows `local` `(own texts, ...)`."""
        if self.world.size == 1:
            return local
        counts = [len(positions) for positions in self.positions]
        gathered: Tensor = _Gather.apply(local, counts, self.world)  # type: ignore[no-untyped-call]
        back = torch.argsort(torch.cat(self.positions))
        return gathered.index_select(0, sent(back, gathered.device))

    def collect_beside(self, other: Share, own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """As `collect`, for two sets of texts in one exchange: each exchange is a wait for all workers."""
        if self.world.size == 1:
            return own, others
        count = sum(map(len, self.positions))
        pairs = zip(self.positions, other.positions, strict=True)
        both = Share(self.world, tuple(torch.cat([first, second + count]) for first, second in pairs))
        rows = both.collect(torch.cat([own, others]))
        return rows[:count], rows[count:]


class SharedGradients:
    """Gradients that lie side by side in memory that is kept from step to step, so that their mean is one exchange and no copy.

    Args:
        world: the workers; where there is one, gradients lie where autograd puts them.
        parameters: all that are trained, of one type and on one device.
    """

    ALIGNED = 16
    """Numbers from the beginning of one gradient to that of the next are a multiple of it: a cache line, and what vector instructions ask for."""

    def __init__(self, world: World, parameters: Iterable[nn.Parameter]) -> None:
        self.world, self.parameters = world, list(parameters)
        self._views: list[Tensor] = []
        self._flat: Tensor | None = None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Gradients begin at zero here; where nothing was raised inside, each is its mean over the workers in the end."""
        if self.world.size == 1:
            yield
            return
        flat = self._zeros()
        # Autograd adds to a gradient that is there.
        for parameter, view in zip(self.parameters, self._views, strict=True):
            parameter.grad = view
        yield
        self.world.average(flat)

    def _zeros(self) -> Tensor:
        if self._flat is not None:
            return self._flat.zero_()
        sizes = [-(-parameter.numel() // self.ALIGNED) * self.ALIGNED for parameter in self.parameters]
        flat = self.parameters[0].new_zeros(sum(sizes), requires_grad=False)
        parts = zip(torch.split(flat, sizes), self.parameters, strict=True)
        self._views = [part[: parameter.numel()].view_as(parameter) for part, parameter in parts]
        self._flat = flat
        return flat


class _Gather(torch.autograd.Function):
    """Concatenation of all workers' rows; see the module's docstring for its gradient."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, counts: list[int], world: World) -> Tensor:
        ctx.counts, ctx.world = counts, world
        longest = max(counts)
        padded = local.new_zeros((longest, *local.shape[1:]), device=_exchange_device())
        padded[: local.shape[0]] = local
        # Made before all say that they are well: nothing may run out of memory between that and the exchange.
        everybody = padded.new_empty((world.size * longest, *local.shape[1:]))
        world.agree_to_go_on()
        dist.all_gather_into_tensor(everybody, padded)
        parts = zip(torch.split(everybody, longest), counts, strict=True) if longest else ()
        return torch.cat([part[:count] for part, count in parts] or [everybody]).to(local.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        start = sum(ctx.counts[: ctx.world.rank])
        own = gradients[0][start : start + ctx.counts[ctx.world.rank]]
        return own * ctx.world.size, None, None


def _exchange_device() -> torch.device:
    """Where tensors must lie to be exchanged: NCCL knows GPUs only, and Gloo does not know all exchanges there."""
    return torch.device("cuda" if "nccl" in dist.get_backend_config() else "cpu")
