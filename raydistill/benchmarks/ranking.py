"""What ranking costs: queries per second and memory, at any number of entities."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from raydistill.benchmarks.machine import seconds_of
from raydistill.benchmarks.naive import naive_ranks
from raydistill.devices import best_device
from raydistill.evaluation.protocol import LinkPredictionTask
from raydistill.evaluation.ranking import rank_candidates

WIDTH = 384
NAIVE_QUERIES = 200
LOOK_SECONDS = 0.002


@dataclass(frozen=True)
class RankingCost:
    """What ranking the queries of a split costs, from ready vectors.

    Attributes:
        entities: candidates of each query.
        queries: ranked.
        seconds: for all of them, the median.
        extra_bytes: resident memory (of the GPU, where there is one) beyond the vectors, at its peak.
        naive_seconds: by a full sort, for as many queries; None where it was not tried.
    """

    entities: int
    queries: int
    seconds: float
    extra_bytes: int
    naive_seconds: float | None

    @property
    def row(self) -> dict[str, float]:
        """The figures of a table's row."""
        found = {
            "entities": float(self.entities),
            "queries/s": self.queries / self.seconds,
            "extra MB": self.extra_bytes / 1e6,
        }
        return found if self.naive_seconds is None else {**found, "times naive": self.naive_seconds / self.seconds}


def ranking_cost(
    task: LinkPredictionTask, entities: int, queries: int, turns: int, *, naive: bool = False
) -> RankingCost:
    """Rank queries of a task among random vectors.

    Args:
        task: its queries, answers and known answers; more entities than it has are strangers to all of them.
        entities: candidates.
        queries: how many to rank.
        turns: how often.
        naive: whether to sort, too; a few queries are sorted, and their time scaled.
    """
    device = best_device()
    vectors, asked = random_vectors(entities, seed=0).to(device), random_vectors(queries, seed=1).to(device)
    gold = torch.from_numpy(task.gold[:queries].astype(np.int64))
    offsets = torch.from_numpy(task.known_offsets[: queries + 1])
    known = torch.from_numpy(task.known_ids[: int(task.known_offsets[queries])].astype(np.int64))

    def rank() -> None:
        rank_candidates(asked, vectors, gold, offsets, known)

    taken = statistics.median(seconds_of(rank, turns, device))
    sorting = None
    if naive:
        some = min(NAIVE_QUERIES, queries)
        lists = [known[int(offsets[row]) : int(offsets[row + 1])].tolist() for row in range(some)]
        once = seconds_of(lambda: naive_ranks(asked[:some], vectors, gold[:some].tolist(), lists), turns)
        sorting = statistics.median(once) * queries / some
    return RankingCost(entities, queries, taken, peak_bytes(rank), sorting)


def random_vectors(count: int, seed: int) -> Tensor:
    """Vectors of length 1, made a part at a time, `(count, 384)`."""
    generator, vectors = torch.Generator().manual_seed(seed), torch.empty(count, WIDTH)
    for part in torch.split(vectors, 100_000):
        part.normal_(generator=generator)
        torch.nn.functional.normalize(part, dim=-1, out=part)
    return vectors


def peak_bytes(work: Callable[[], Any]) -> int:
    """Memory that some work takes at its peak beyond what was taken before: of the GPU, or resident and looked at every few milliseconds."""
    if best_device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        taken = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - taken
    process, most, over = psutil.Process(), 0, threading.Event()
    before = process.memory_info().rss

    def look() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, process.memory_info().rss - before)
            time.sleep(LOOK_SECONDS)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    return most
