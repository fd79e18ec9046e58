"""What a step of training costs: its parts, and how near it comes to what the arithmetic allows."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from raydistill.benchmarks.machine import floor_seconds, waiting
from raydistill.config.trial import TrialConfig
from raydistill.data.batches import TripleBatch
from raydistill.data.texts import Texts
from raydistill.models.biencoder import BiEncoder, Tower
from raydistill.models.features import Needs, TowerOutput
from raydistill.teachers.shards import KeptTeachers
from raydistill.teachers.views import LiveTeacher
from raydistill.training.clock import Clock
from raydistill.training.gather import World
from raydistill.training.parts import TrialParts, build_parts
from raydistill.training.trainer import Trainer

WARM_UP = 2
STEPS_ON_A_GPU = 20
NOTHING = Needs()
PARTS = ("data", "teacher", "forward", "terms", "backward", "optimizer")


@dataclass(frozen=True)
class StepCost:
    """Medians over steps of one trial.

    Attributes:
        layers: of the student.
        examples: triples in a step, one direction each.
        tokens: that the student reads in a step, the mean.
        padding: share of padding in what it is given.
        seconds: of a step.
        parts: the share of each of its parts.
        floor: seconds that the arithmetic alone takes.
        ready: seconds that the first step takes beyond others: what is compiled, or kept of a teacher, is made in it.
        loss: the mean over all steps that were taken, the first ones included.
    """

    layers: int
    examples: float
    tokens: float
    padding: float
    seconds: float
    parts: dict[str, float]
    floor: float
    ready: float
    loss: float

    @property
    def row(self) -> dict[str, float]:
        """The figures of a table's row."""
        rest = 1 - sum(self.parts.values())
        return {
            "examples/s": self.examples / self.seconds,
            "tokens/s": self.tokens / self.seconds,
            **{f"{name} %": 100 * self.parts.get(name, 0.0) for name in PARTS},
            "rest %": 100 * rest,
            "padding %": 100 * self.padding,
            "floor %": 100 * self.floor / self.seconds,
            "ready s": self.ready,
            "loss": self.loss,
        }


def step_cost(trial: TrialConfig, rate: float, steps: int, kept: Path | None = None) -> StepCost:
    """Take some steps of a trial and see where their time goes.

    On a GPU the seconds of a step are those of many that follow each other without waiting, and so is the share of them that the loop waits for data; the shares
    of its other parts are of further steps, which wait at the border of each part.

    Args:
        trial: the trial.
        rate: the machine's operations per second in the trial's precision.
        steps: how many to look at.
        kept: where the teacher's outputs are kept, if they are.
    """
    parts = build_parts(trial, World.alone(), kept=None if kept is None else KeptTeachers(kept))
    trainer, wait = parts.trainer, waiting(parts.student.log_inverse_temperature.device)
    trainer.measure_gradients = False
    live = trainer.teacher.model if isinstance(trainer.teacher, LiveTeacher) else None
    own, taught = Readings(parts.student), Readings(live)
    endless = endless_steps(parts)
    each = 1 if wait is None else STEPS_ON_A_GPU
    first, *_ = timed_steps(endless, wait, WARM_UP, each)
    own.begin()
    taught.begin()
    taken, shares = _looked_at(trainer, endless, steps, each)
    whole = statistics.median(taken)
    tokens, tokens_of_teacher = own.tokens / (steps * each), taught.tokens / (steps * each)
    if wait is not None:
        data = [one.get("data", 0.0) for one in shares]
        trainer.clock = Clock(wait)
        shares = [
            {**one, "data": some} for one, some in zip(_looked_at(trainer, endless, steps, 1)[1], data, strict=True)
        ]
    loss = trainer.averages()["loss"]
    batches = _same_batches(parts, WARM_UP + steps)[WARM_UP:]
    return StepCost(
        trial.layers,
        statistics.median(len(batch) for batch in batches),
        tokens,
        statistics.median(padding(batch, parts.student) for batch in batches),
        whole,
        {name: statistics.median(one.get(name, 0.0) for one in shares) for name in PARTS},
        floor_seconds(tokens, parts.student, rate, taught=tokens_of_teacher, teacher=live),
        each * (first - whole),
        loss,
    )


class Readings:
    """Counts the tokens that a model reads, both views of a text and what is read twice included; None = nobody reads."""

    def __init__(self, model: BiEncoder | None) -> None:
        self.tokens = 0
        if model is not None:
            encode = model.encode

            def counted(
                texts: Texts, tower: Tower, needs: Needs = NOTHING, before_part: Callable[[int], None] | None = None
            ) -> TowerOutput:
                self.tokens += len(texts.tokens)
                return encode(texts, tower, needs, before_part)

            model.encode = counted  # type: ignore[method-assign]

    def begin(self) -> None:
        """Count from here."""
        self.tokens = 0


def _looked_at(
    trainer: Trainer, endless: Iterator[int], count: int, each: int
) -> tuple[list[float], list[dict[str, float]]]:
    """Seconds of a step, and the share that each part has in it, in each of `count` runs of `each` steps."""
    wait = waiting(trainer.student.log_inverse_temperature.device)
    taken, shares = [], []
    trainer.clock.take()
    for seconds in timed_steps(endless, wait, count, each):
        taken.append(seconds)
        shares.append({name: spent / (each * seconds) for name, spent in trainer.clock.take().items()})
    return taken, shares


def padding(batch: TripleBatch, model: BiEncoder) -> float:
    """Share of padding in the micro-batches of a step; none where texts are laid end to end."""
    if model.packs:
        return 0.0
    padded = sum(
        len(part) * int(texts.lengths[part].max())
        for texts in (batch.queries, batch.candidates)
        for part in model.micro_batches(texts.lengths)
    )
    return 1 - sum(_tokens(batch)) / padded


def timed_steps(endless: Iterator[int], wait: Callable[[], None] | None, count: int, each: int) -> Iterator[float]:
    """Seconds of a step, in one run of `each` steps after another."""
    for _ in range(count):
        began = time.perf_counter()
        for _ in range(each):
            next(endless)
        if wait is not None:
            wait()
        yield (time.perf_counter() - began) / each


def endless_steps(parts: TrialParts) -> Iterator[int]:
    """Takes one step after another, epoch after epoch."""
    return itertools.chain.from_iterable(iter(parts.trainer.run_epoch, None))


def _same_batches(parts: TrialParts, count: int) -> list[TripleBatch]:
    """The batches of the first steps again."""
    source = parts.trainer.source
    triples = itertools.chain.from_iterable(source.batches(epoch) for epoch in itertools.count())
    return [parts.trainer.builder.build(some) for some in itertools.islice(triples, count)]


def _tokens(batch: TripleBatch) -> tuple[int, int]:
    return int(batch.queries.lengths.sum()), int(batch.candidates.lengths.sum())
