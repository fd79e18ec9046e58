"""Structural models from a graph's training triples: every distinct query against all entities at once, as one product of two tables.

Not by PyKEEN, which scores so through a tensor of queries by entities by dimension: about a minute of a core for UMLS, and 5 GB for a batch of WN18RR. It is the
tests' oracle for scores and loss.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from raydistill.data.texts import token_positions
from raydistill.devices import best_device, sent
from raydistill.errors import NonFiniteLossError
from raydistill.kg.store import Dataset
from raydistill.kg.triples import with_inverses
from raydistill.teachers.structural import INTERACTIONS, Interaction, StructuralModel

logger = logging.getLogger(__name__)
INITIAL_DEVIATION = 0.1


@dataclass(frozen=True)
class StructuralSettings:
    """How a structural model is trained.

    Attributes:
        interaction: how a score is made of rows.
        dimension: of a row; complex numbers for complex.
        epochs: passes over the distinct queries of both directions.
        seed: of initial rows and of the order.
        batch_size: queries of a step.
        learning_rate: Adam's.
        regularization: weight of the nuclear 3-norm: the cubes of the absolute values of the rows that a step looks at.
    """

    interaction: Interaction = "complex"
    dimension: int = 64
    epochs: int = 100
    seed: int = 0
    batch_size: int = 256
    learning_rate: float = 0.01
    regularization: float = 0.01


def train_structural(dataset: Dataset, settings: StructuralSettings) -> StructuralModel:
    """A structural model of a graph's training triples; on the CPU of one machine equal settings give equal bits.

    Cross-entropy pulls the softmax of a query's scores to its known answers: so that is the model's own distribution, with inverse temperature 1.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite.

    Source:
        Lacroix et al. 2018, arXiv 1806.07297: reciprocal relations, cross-entropy over all entities, the nuclear 3-norm. There each triple is an example; here
        a query with several answers is one, whose target they share (KvsAll of Ruffinelli et al., ICLR 2020).
    """
    generator, device = torch.Generator().manual_seed(settings.seed), best_device()
    width = settings.dimension * (2 if settings.interaction == "complex" else 1)
    entities, relations = (
        (torch.randn(rows, width, generator=generator) * INITIAL_DEVIATION).to(device).requires_grad_()
        for rows in (dataset.num_entities, 2 * dataset.num_relations)
    )
    queries, optimizer = _Queries(dataset), torch.optim.Adam([entities, relations], lr=settings.learning_rate)
    started, loss = time.perf_counter(), torch.zeros(())
    for epoch in range(settings.epochs):
        for batch in queries.batches(settings.batch_size, generator):
            loss = structural_loss(settings.interaction, entities, relations, batch.on(device), settings.regularization)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if not bool(loss.isfinite()):
            raise NonFiniteLossError(
                f"epoch {epoch + 1} of a structural model: the loss is {float(loss.detach())}",
                expected="a finite loss",
                consequence="a student would learn nothing from its rows",
                remedy="lower the learning rate, or try another seed",
            )
    seconds, last = time.perf_counter() - started, float(loss.detach())
    logger.info("%d epochs in %.1f s, last loss %.3f", settings.epochs, seconds, last)
    return StructuralModel(settings.interaction, entities.detach().cpu(), relations.detach().cpu())


@dataclass(frozen=True)
class QueryBatch:
    """Some distinct queries and all their known answers.

    Args:
        heads: `(queries,)` int64.
        relations: `(queries,)` int64, inverses from num_relations on.
        rows: `(answers,)` int64, which query each answer is of.
        answers: `(answers,)` int64, entities.
    """

    heads: Tensor
    relations: Tensor
    rows: Tensor
    answers: Tensor

    def on(self, device: torch.device) -> QueryBatch:
        """The same on a device."""
        return QueryBatch(*(sent(one, device) for one in (self.heads, self.relations, self.rows, self.answers)))


def structural_loss(
    interaction: Interaction, entities: Tensor, relations: Tensor, batch: QueryBatch, regularization: float
) -> Tensor:
    """Mean over queries of the cross-entropy between the softmax over all entities and a target shared equally by the known answers, and the 3-norm.

    Args:
        interaction: how a score is made of rows.
        entities: `(entities, width)`.
        relations: `(2 * num_relations, width)`.
        batch: the queries.
        regularization: weight of the 3-norm, mean over heads and relations of queries, and over answers.

    Returns:
        A scalar, nats.
    """
    heads, kinds = functional.embedding(batch.heads, entities), functional.embedding(batch.relations, relations)
    scores = INTERACTIONS[interaction](heads, kinds) @ entities.T
    counts = torch.bincount(batch.rows, minlength=len(batch.heads))
    shares = 1 / counts[batch.rows].to(scores.dtype)
    right = (scores[batch.rows, batch.answers] * shares).sum() / len(counts)
    value: Tensor = scores.logsumexp(1).mean() - right
    if regularization:
        rows = heads, kinds, functional.embedding(batch.answers, entities)
        value = value + regularization * torch.stack([_cubes(interaction, one) for one in rows]).sum()
    return value


def _cubes(interaction: Interaction, rows: Tensor) -> Tensor:
    """Mean over rows of the sum of cubes of absolute values."""
    squares = rows.square()
    if interaction == "complex":
        squares = torch.stack(squares.chunk(2, dim=1)).sum(0)
    return squares.pow(1.5).sum(1).mean()


class _Queries:
    """The distinct queries of a graph's training triples, in both directions, with their answers."""

    def __init__(self, dataset: Dataset) -> None:
        triples = with_inverses(dataset.train, dataset.num_relations).astype(np.int64)
        distinct, place = np.unique(triples[:, :2], axis=0, return_inverse=True)
        order = np.argsort(place.reshape(-1), kind="stable")
        self.heads, self.relations = torch.from_numpy(distinct).unbind(1)
        self.answers = torch.from_numpy(triples[order, 2])
        self.counts = torch.from_numpy(np.bincount(place.reshape(-1), minlength=len(distinct)))
        self.starts = torch.cumsum(self.counts, 0) - self.counts

    def batches(self, size: int, generator: torch.Generator) -> Iterator[QueryBatch]:
        """All of them once, in an order that is drawn."""
        for chosen in torch.split(torch.randperm(len(self.heads), generator=generator), size):
            counts = self.counts[chosen]
            answers = self.answers[token_positions(self.starts[chosen], counts)]
            rows = torch.repeat_interleave(torch.arange(len(chosen)), counts)
            yield QueryBatch(self.heads[chosen], self.relations[chosen], rows, answers)
