"""What an epoch costs beside its steps: a validation, and a checkpoint. What Ray adds to it is measured by `orchestration/overheads.py`."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from raydistill.benchmarks.machine import seconds_once, waiting
from raydistill.benchmarks.training import STEPS_ON_A_GPU, WARM_UP, endless_steps, timed_steps
from raydistill.config.trial import TrialConfig
from raydistill.planning.records import MRR
from raydistill.training.gather import World
from raydistill.training.keeping import CheckpointKeeper
from raydistill.training.parts import build_parts

MINUTE = 60.0


@dataclass(frozen=True)
class EpochCost:
    """Of one trial.

    Attributes:
        layers: of the student.
        steps: in an epoch.
        step: seconds of one, the median of some.
        validation: seconds, with the texts of all entities and queries encoded.
        checkpoint: seconds to write one, synced; the median of some.
    """

    layers: int
    steps: int
    step: float
    validation: float
    checkpoint: float

    @property
    def row(self) -> dict[str, float]:
        """The figures of a table's row."""
        steps = self.steps * self.step
        whole = steps + self.validation + self.checkpoint
        return {
            "steps": float(self.steps),
            "steps s": steps,
            "validation s": self.validation,
            "checkpoint s": self.checkpoint,
            "validation %": 100 * self.validation / whole,
            "checkpoint %": 100 * self.checkpoint / whole,
            "checkpoint % of a minute": 100 * self.checkpoint / MINUTE,
        }


def epoch_cost(trial: TrialConfig, steps: int, turns: int, out: Path) -> EpochCost:
    """Take some steps of a trial, validate, and write checkpoints.

    Args:
        trial: the trial.
        steps: how many are taken; an epoch has more.
        turns: checkpoints.
        out: where checkpoints are written.
    """
    parts = build_parts(trial, World.alone())
    device = parts.student.log_inverse_temperature.device
    parts.trainer.measure_gradients = False
    endless, wait = endless_steps(parts), waiting(device)
    each = 1 if wait is None else STEPS_ON_A_GPU
    taken = list(timed_steps(endless, wait, WARM_UP + steps, each))[WARM_UP:]
    keeper = CheckpointKeeper(out / f"layers{trial.layers}", keep=1, writes=True)
    # Minutes on a large graph, so it is done once; the steps have warmed up what there is.
    validation = seconds_once(parts.validate, device)
    saves = []
    for _ in range(turns):
        # Each after one more step, as in training: under a name of its own.
        next(endless)
        saves.append(seconds_once(lambda: keeper.save_epoch(parts, {MRR: 0.0}), device))
    median = statistics.median
    return EpochCost(trial.layers, parts.steps_per_epoch, median(taken), validation, median(saves))
