"""The parts of the benchmark that go over a graph: preparing it, its texts, and ranking its entities."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from raydistill.benchmarks.bench import Bench, Row
from raydistill.benchmarks.machine import seconds_of
from raydistill.benchmarks.peers import (
    PYKEEN,
    SENTENCE_TRANSFORMERS,
    SentenceTransformers,
    is_installed,
    pykeen_seconds,
)
from raydistill.benchmarks.ranking import random_vectors, ranking_cost
from raydistill.benchmarks.texts import (
    Rate,
    agreement,
    assembling,
    beside_float32,
    encoding,
    preparing,
    synthetic_graph,
    tokenising,
)
from raydistill.evaluation.encode import link_prediction_task
from raydistill.evaluation.protocol import LinkPredictionTask

ENTITIES = (40_943, 600_000, 4_600_000)
ENCODED = 4096
LENGTHS = (16, 32, 128)
"""Tokens of a text at most, between which encoding grows."""
FEWEST = 256
"""Queries that are ranked at least: fewer would not fill a product."""
LARGE = (5_000_000, 20_000_000)
"""Entities and triples of a graph as large as the largest public ones."""


def text_rows(bench: Bench) -> Iterator[Row]:
    """Preparing, tokenising, batches, and encoding entities, also beside sentence-transformers."""
    if bench.source is None:
        yield {"texts": "prepare: left out, no --source is given"}
    else:
        yield _row(preparing(bench.source, bench.out))
    yield _row(tokenising(bench.dataset, bench.config.encoder.name))
    trial = bench.trials("fp32")[0]
    yield _row(assembling(trial, bench.turns * 4))
    for precision in bench.precisions:
        yield _row(encoding(trial, precision, bench.turns, ENCODED, bench.rate(precision)))
    if "bf16" in bench.precisions:
        yield {"texts": "bf16 beside fp32", **beside_float32(trial, ENCODED)}
    yield from bench.left_out("texts")
    if not is_installed(SENTENCE_TRANSFORMERS):
        yield {"texts": "encode sentence-transformers: not installed"}
    else:
        count = min(ENCODED, bench.dataset.num_entities)
        strings = [bench.texts.entity(entity, -1) for entity in range(count)]
        peer = SentenceTransformers(bench.encoder, bench.config.data.max_tokens)
        seconds = statistics.median(seconds_of(lambda: peer.encode(strings), bench.turns))
        cosine = agreement(trial, "fp32", peer.encode(strings))
        row = {"count": count, "seconds": seconds, "per second": count / seconds, "lowest cosine": cosine}
        yield {"texts": "encode sentence-transformers", **row}
    for tokens in LENGTHS:
        data = trial.data.model_copy(update={"max_tokens": tokens})
        shorter, precision = trial.model_copy(update={"data": data}), bench.precisions[-1]
        found = encoding(shorter, precision, bench.turns, ENCODED, bench.rate(precision))
        yield {**_row(found), "texts": f"{found.what}, at most {tokens} tokens"}


def large_rows(bench: Bench) -> Iterator[Row]:
    """Preparing a graph of made-up words that is as large as the largest public ones; it takes 2 GB below `bench.out` meanwhile."""
    with tempfile.TemporaryDirectory(dir=bench.out) as folder:
        yield _row(preparing(str(synthetic_graph(Path(folder) / "source", *LARGE)), bench.out))


def ranking_rows(bench: Bench) -> Iterator[Row]:
    """Test queries from ready vectors, among as many entities as the graph has and among many more."""
    task = link_prediction_task(bench.dataset, "test")
    count = len(task.gold)
    for entities in sorted({task.num_entities, *(some for some in ENTITIES if some > task.num_entities)}):
        few = count if entities <= ENTITIES[0] else max(min(count, FEWEST), count * ENTITIES[0] // entities)
        cost = ranking_cost(task, entities, few, bench.turns, naive=entities <= ENTITIES[0])
        yield {"ranking": "raydistill", **cost.row}
    yield _pykeen(bench, task) if is_installed(PYKEEN) else {"ranking": "PyKEEN: not installed"}


def _pykeen(bench: Bench, task: LinkPredictionTask) -> Row:
    train, test = torch.from_numpy(bench.dataset.train), torch.from_numpy(bench.dataset.test)
    known = torch.cat([train, torch.from_numpy(bench.dataset.valid), test])
    vectors = random_vectors(len(task.distinct_heads), 1), random_vectors(task.num_entities, 0)
    seconds = pykeen_seconds(task, train, test, known, vectors, turns=bench.turns)
    return {"ranking": "PyKEEN", "entities": task.num_entities, "queries/s": len(task.gold) / seconds}


def _row(rate: Rate) -> Row:
    return {"texts": rate.what, **rate.row}
