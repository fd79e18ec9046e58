"""The parts of the benchmark that take steps of training, each as the rows of a table; what is compared is measured in the same run."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from raydistill.benchmarks.bench import Bench, Row
from raydistill.benchmarks.epochs import epoch_cost
from raydistill.benchmarks.machine import seconds_of
from raydistill.benchmarks.peers import SENTENCE_TRANSFORMERS, SentenceTransformers, is_installed
from raydistill.benchmarks.profiles import profile_of
from raydistill.benchmarks.savings import assembly_saving, savings
from raydistill.benchmarks.training import endless_steps, step_cost
from raydistill.benchmarks.workload import drawn_triples
from raydistill.devices import best_device
from raydistill.training.gather import World
from raydistill.training.parts import build_parts

GROWN = (*((batch, 50) for batch in (64, 256, 1024)), *((256, tokens) for tokens in (16, 32, 128)))
"""Batches, and tokens of a text at most, between which a step grows."""


def step_rows(bench: Bench) -> Iterator[Row]:
    """Steps of every grade under a teacher that reads along, and the naive way."""
    for precision in bench.precisions:
        rate = bench.rate(precision)
        for trial in bench.trials(precision):
            cost = step_cost(trial, rate, bench.turns)
            yield {"step": f"{trial.layers} layers, {precision}", "GFLOP/s": rate / 1e9, **cost.row}
    yield from bench.left_out("step")
    for trial in bench.trials("fp32")[1:]:
        if trial.teacher is None:
            yield {"step": f"{trial.layers} layers, naive: left out, nobody teaches here"}
            continue
        examples, seconds = bench.naive(trial)
        yield {"step": f"{trial.layers} layers, naive", "examples/s": examples / seconds}


def kept_rows(bench: Bench) -> Iterator[Row]:
    """Steps of the last grade under a teacher that reads along, and under what is kept of one: the same steps on the same texts, whose loss is the same; and under one that reads
    along masks that are drawn anew for each text and epoch, as nothing can be kept of. What is kept is made in the first step."""
    ways = (
        ("reads along", {"corruptions": 1, "remember_teacher": False}),
        ("is kept", {"corruptions": 1, "remember_teacher": True}),
        ("reads along, fresh masks", {"corruptions": None, "remember_teacher": False}),
    )
    for precision in bench.precisions:
        rate, [*_, last] = bench.rate(precision), bench.trials(precision)
        for how, changes in ways:
            trial = last.model_copy(update={"training": last.training.model_copy(update=changes)})
            # What an earlier run has kept would be found in the first step.
            shutil.rmtree(bench.out / "kept", ignore_errors=True)
            cost = step_cost(trial, rate, bench.turns, bench.out / "kept" if changes["remember_teacher"] else None)
            yield {"teacher": f"{how}, {trial.layers} layers, {precision}", "GFLOP/s": rate / 1e9, **cost.row}
    yield from bench.left_out("teacher")


def epoch_rows(bench: Bench) -> Iterator[Row]:
    """What an epoch of every grade takes beside its steps, in the precision that the machine is fast in."""
    for trial in bench.trials(bench.precisions[-1]):
        yield {
            "epoch": f"{trial.layers} layers",
            **epoch_cost(trial, bench.turns, bench.turns, bench.out / "epochs").row,
        }


def profile_rows(bench: Bench) -> Iterator[Row]:
    """Seconds of a step by kind of operation: ours in the precision that the machine is fast in, and the naive way's in its own."""
    [*_, trial] = bench.trials(bench.precisions[-1])
    parts = build_parts(trial, World.alone())
    parts.trainer.measure_gradients = False
    ours = endless_steps(parts)
    steps: dict[str, Callable[[], Any]] = {"ours": lambda: next(ours)}
    if trial.teacher is not None:
        naive, batches = bench.naive_way(trial)
        steps["naive"] = lambda: naive.step(next(batches))
    for name, step in steps.items():
        found = profile_of(step, bench.turns, best_device())
        precision = trial.training.precision if name == "ours" else "fp32"
        yield {"profile": f"{trial.layers} layers, {name}, {precision}", **found.row}


def saving_rows(bench: Bench) -> Iterator[Row]:
    """Steps of the last grade with and without each way to save work, in the precision that the machine is fast in."""
    [*_, trial] = bench.trials(bench.precisions[-1])
    yield from savings(trial, bench.turns)
    if trial.teacher is not None:
        yield assembly_saving(trial, *bench.naive_way(trial))


def contrastive_rows(bench: Bench) -> Iterator[Row]:
    """Steps without a teacher, beside those of sentence-transformers on the same texts."""
    texts, batch = bench.texts, bench.config.training.batch_size
    triples = drawn_triples(bench.dataset, batch, bench.turns + 2)
    for precision in bench.precisions:
        cost = step_cost(bench.trials(precision)[0], bench.rate(precision), bench.turns)
        yield {"contrastive step": f"raydistill, {precision}", "pairs/s": cost.examples / cost.seconds}
        if not is_installed(SENTENCE_TRANSFORMERS):
            yield {"contrastive step": f"sentence-transformers, {precision}: not installed"}
            continue
        peer = SentenceTransformers(bench.encoder, bench.config.data.max_tokens)
        pairs = iter(
            [(f"{texts.entity(h, t)} {texts.phrases[r]}", texts.entity(t, h)) for h, r, t in some] for some in triples
        )
        taken = seconds_of(lambda peer=peer, pairs=pairs, kind=precision: peer.step(next(pairs), kind), bench.turns)  # type: ignore[misc]
        yield {"contrastive step": f"sentence-transformers, {precision}", "pairs/s": batch / statistics.median(taken)}
    yield from bench.left_out("contrastive step")


def growth_rows(bench: Bench) -> Iterator[Row]:
    """How a step grows with the batch and with the length of the texts."""
    precision = bench.precisions[-1]
    [*_, trial] = bench.trials(precision)
    rate = bench.rate(precision)
    for batch, length in GROWN:
        training = trial.training.model_copy(update={"batch_size": batch})
        data = trial.data.model_copy(update={"max_tokens": length})
        cost = step_cost(trial.model_copy(update={"training": training, "data": data}), rate, bench.turns)
        yield {"growth": f"batch {batch}, {length} tokens", "seconds": cost.seconds, **cost.row}
