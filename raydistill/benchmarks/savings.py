"""What each way to save work gives: the same steps with it and without it, in turns, because a machine is faster in one minute than in the next."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from raydistill.benchmarks.machine import seconds_once
from raydistill.benchmarks.naive import NaiveDistillation, Triple
from raydistill.benchmarks.training import WARM_UP, endless_steps
from raydistill.config.trial import TrialConfig
from raydistill.data.batches import TripleBatch
from raydistill.devices import tokens_at_once
from raydistill.models.biencoder import BiEncoder
from raydistill.teachers.views import LiveTeacher
from raydistill.training.gather import World
from raydistill.training.parts import TrialParts, build_parts


@dataclass(frozen=True)
class Saving:
    """One way to save work.

    Attributes:
        name: what it does.
        settings: of training, without it.
        undo: takes it from a trial's parts.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    undo: Callable[[TrialParts], None] = lambda parts: None


def savings(trial: TrialConfig, turns: int) -> Iterator[dict[str, Any]]:
    """A row for each way: seconds of a step with it and without it, medians of steps that were taken in turns.

    Args:
        trial: a student under a teacher that reads along.
        turns: steps of each.
    """
    for saving in SAVINGS:
        parts = [_parts(trial, {}), _parts(trial, saving.settings)]
        saving.undo(parts[1])
        endless, device = [endless_steps(one) for one in parts], parts[0].student.log_inverse_temperature.device
        taken: tuple[list[float], list[float]] = ([], [])
        for _ in range(WARM_UP + turns):
            for some, steps in zip(taken, endless, strict=True):
                some.append(seconds_once(partial(next, steps), device))
        yield _row(saving.name, *(statistics.median(some[WARM_UP:]) for some in taken))


def assembly_saving(trial: TrialConfig, naive: NaiveDistillation, batches: Iterator[list[Triple]]) -> dict[str, Any]:
    """The row of putting batches together from tokenised pieces, validity of their pairs included, against text by text and pair by pair; the first one is not counted."""
    builder = build_parts(trial, World.alone()).trainer.builder
    ours, theirs = list[float](), list[float]()
    for triples in batches:
        rows = np.array(triples, np.int32)
        ours.append(seconds_once(partial(builder.build, rows)))
        theirs.append(seconds_once(partial(naive.tokenised, triples)) + seconds_once(partial(naive.valid, triples)))
    median = statistics.median
    return _row("batches put together from tokenised pieces", median(ours[1:]), median(theirs[1:]))


def _row(name: str, with_it: float, without: float) -> dict[str, Any]:
    return {"saving": name, "with s": with_it, "without s": without, "times": without / with_it}


def _parts(trial: TrialConfig, settings: Mapping[str, Any]) -> TrialParts:
    training = trial.training.model_copy(update={"remember_teacher": False, **settings})
    parts = build_parts(trial.model_copy(update={"training": training}), World.alone())
    parts.trainer.measure_gradients = False
    return parts


def _encode_as_often_as_read(parts: TrialParts) -> None:
    build = parts.trainer.builder.build

    def repeated(*given: Any) -> TripleBatch:
        return as_often_as_read(build(*given))

    parts.trainer.builder.build = repeated  # type: ignore[method-assign, assignment]


def as_often_as_read(batch: TripleBatch) -> TripleBatch:
    """The batch with a query and an answer for each example, as often as they occur in it."""
    own = torch.arange(len(batch))
    return replace(
        batch,
        queries=batch.queries.select(batch.rows),
        candidates=batch.candidates.select(batch.columns),
        rows=own,
        columns=own,
        valid_rows=batch.valid_rows[:, batch.columns],
        valid_columns=batch.valid_columns[:, batch.rows],
        column_entities=batch.column_entities[batch.columns.numpy()],
    )


def _models(parts: TrialParts) -> list[BiEncoder]:
    """All that read the texts of a step."""
    teacher = parts.trainer.teacher
    return [parts.student, *([teacher.model] if isinstance(teacher, LiveTeacher) else [])]


def _pad(parts: TrialParts) -> None:
    for model in _models(parts):
        model.packs = False


def _take_what_suits_another(parts: TrialParts) -> None:
    here = parts.student.log_inverse_temperature.device.type
    for model in _models(parts):
        model.tokens_per_micro_batch = tokens_at_once("auto", torch.device("cpu" if here == "cuda" else "cuda"))


def _update_one_by_one(parts: TrialParts) -> None:
    optimizer = parts.optimizer
    optimizer.adamw = torch.optim.AdamW(optimizer.adamw.param_groups, foreach=False, fused=False)
    for group in optimizer.adamw.param_groups:
        group["fused"] = group["foreach"] = False


SAVINGS = (
    Saving("each distinct text of a batch encoded once", undo=_encode_as_often_as_read),
    Saving("texts end to end, without padding", undo=_pad),
    Saving("as many tokens at a time as suit the device", undo=_take_what_suits_another),
    Saving("embedding rows of the graph's pieces alone", {"trim_vocabulary": False}),
    Saving("one fused update of all weights", undo=_update_one_by_one),
)
