"""What ranking costs: queries per second and memory, at any number of entities."""

from __future__ import annotations

import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from torch import Tensor

from raydistill.benchmarks.machine import seconds_of
from raydistill.benchmarks.naive import naive_ranks
from raydistill.devices import best_device
from raydistill.evaluation.protocol import LinkPredictionTask

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
    """Rank queries of a task among random vectors, the choice of their known answers included.

    Args:
        task: its queries, answers and known answers; more entities than it has are strangers to all of them.
        entities: candidates.
        queries: how many to rank.
        turns: how often.
        naive: whether to sort, too; a few queries are sorted, and their time scaled.
    """
    task, device = first_queries(task, entities, queries), best_device()
    # Before the vectors are here, too: those of millions of entities take gigabytes.
    extra = _extra_bytes(task) if device.type == "cuda" else _extra_bytes_of_a_process(task)
    asked, vectors = (one.to(device) for one in _vectors(task))
    taken = statistics.median(seconds_of(lambda: task.rank(asked, vectors), turns, device))
    sorting = None
    if naive:
        some = task.distinct_of_query[: min(NAIVE_QUERIES, queries)]
        bounds = task.known_offsets
        lists = [task.known_ids[bounds[row] : bounds[row + 1]].tolist() for row in some]
        rows, gold = asked[torch.from_numpy(some).to(device)], task.gold[: len(some)].tolist()
        once = seconds_of(lambda: naive_ranks(rows, vectors, gold, lists), turns)
        sorting = statistics.median(once) * queries / len(some)
    return RankingCost(entities, queries, taken, extra, sorting)


def first_queries(task: LinkPredictionTask, entities: int, queries: int) -> LinkPredictionTask:
    """The first queries of a task, among more entities."""
    asked = {name: getattr(task, name)[:queries] for name in ("heads", "relations", "gold", "distinct_of_query")}
    return replace(task, num_entities=entities, **asked)


def _vectors(task: LinkPredictionTask) -> tuple[Tensor, Tensor]:
    """Of the distinct queries, and of the entities."""
    return random_vectors(len(task.distinct_heads), seed=1), random_vectors(task.num_entities, seed=0)


def _extra_bytes_of_a_process(task: LinkPredictionTask) -> int:
    """Memory of a first ranking: a process that has ranked before has kept what it took then, and takes no more."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        return alone.submit(_extra_bytes, task).result()


def _extra_bytes(task: LinkPredictionTask) -> int:
    asked, vectors = (one.to(best_device()) for one in _vectors(task))
    # Libraries for products make themselves ready at the first one.
    torch.mm(asked[:64], vectors[:64].T)
    return peak_bytes(lambda: task.rank(asked, vectors))


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
