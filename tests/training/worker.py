"""One of several workers of a trial: `python worker.py RANK SIZE MEETING JOBS OUT`.

JOBS is a JSON list of [configuration, steps, failing]; OUT gets, per job, the gradients of every step, the averages and weights after the
last; for steps 0 what `run_trial` reports; for steps -1 ranks and metrics; for steps -2 a validation. `failing` says, per worker, at which of its micro-batches there is
no memory left; under `interrupt RANK` after how many more steps that worker is told to end, and under `look RANK` when it looks for which time.
Also imported by the tests, for the same numbers from a single worker.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raydistill.config.trial import TrialConfig
from raydistill.errors import TrialInterruptedError
from raydistill.evaluation import encode
from raydistill.models.biencoder import BiEncoder
from raydistill.training.gather import World
from raydistill.training.optimizer import Optimizer
from raydistill.training.parts import build_parts
from raydistill.training.trial import run_trial

SMALL_STEPS = {"epochs": 3, "learning_rate": 1e-6, "max_gradient_norm": 1e9}
"""Gradients as they are, and steps so small that later ones begin at equal weights."""
RANK, VALIDATE = -1, -2
"""In place of a number of steps."""
Job = tuple[TrialConfig, int, dict[str, list[int]]]
"""What, how many steps (see worker.py), and which worker's micro-batches find no memory."""


def run_workers(folder: Path, jobs: Sequence[Job], size: int) -> list[list[Any]]:
    """What each of `size` worker processes found."""
    path = folder / "jobs.json"
    path.write_text(json.dumps([(config.model_dump(mode="json"), steps, failing) for config, steps, failing in jobs]))
    script, environment = __file__, {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    started = [
        subprocess.Popen(
            [
                sys.executable,
                script,
                str(rank),
                str(size),
                str(folder / "meeting"),
                str(path),
                str(folder / f"out{rank}"),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * size, "\n".join(said)
    return [torch.load(folder / f"out{rank}") for rank in range(size)]


def take_steps(config: TrialConfig, steps: int, world: World) -> dict[str, Any]:
    """The first steps of a trial: gradients before each step, averages and weights after the last."""
    parts = build_parts(config, world)
    gradients: list[dict[str, torch.Tensor]] = []
    step = parts.optimizer.step

    def keep(number: int, unless: torch.Tensor | None = None) -> None:
        gradients.append({name: p.grad.clone() for name, p in parts.optimizer.named if p.grad is not None})
        step(number, unless)

    parts.optimizer.step = keep  # type: ignore[method-assign]
    for taken in parts.trainer.run_epoch():
        if taken == steps:
            break
    return {
        "gradients": gradients,
        "averages": parts.trainer.averages(),
        "weights": parts.student.state_dict(),
        "tokens": parts.student.tokens_per_micro_batch,
    }


def rank_split(config: TrialConfig, world: World) -> dict[str, Any]:
    """Ranks and metrics of a trial's first weights on the validation split."""
    parts = build_parts(config, world)
    report = encode.evaluate(parts.student, parts.assembler, parts.task, workers=world)
    ranks = report.ranks
    return {"ranks": torch.stack([ranks.better, ranks.tied, ranks.rivals]), "metrics": parts.validate()}


def validated(config: TrialConfig, world: World) -> dict[str, Any]:
    """A validation of a trial's first weights, and how many tokens it was done with at a time in the end."""
    parts = build_parts(config, world)
    return {"metrics": parts.validate(), "tokens": parts.student.tokens_per_micro_batch}


def reports_of(
    config: TrialConfig, folder: Path, world: World, steps: Sequence[int], looks: Sequence[int]
) -> list[Any]:
    """What a trial reports; at its end the word "interrupted", where it was: after so many steps, or when it looks for the that time."""
    asked, taken = itertools.count(1), list[int]()
    found: list[Any] = []
    step_of = Optimizer.step

    def step(self: Optimizer, number: int, unless: torch.Tensor | None = None) -> None:
        step_of(self, number, unless)
        taken.append(number)

    Optimizer.step = step  # type: ignore[method-assign]
    try:
        for report in run_trial(config, folder, world, None, lambda: next(asked) in looks or len(taken) in steps):
            found.append(asdict(report))
    except TrialInterruptedError:
        found.append("interrupted")
    finally:
        Optimizer.step = step_of  # type: ignore[method-assign]
    return found


@contextmanager
def out_of_memory_at(calls: Sequence[int]) -> Iterator[None]:
    """No memory is left when the micro-batches of these numbers, from 0, are encoded by any model."""
    original, count = BiEncoder.encode_part, itertools.count()

    def encode_part(self: BiEncoder, texts: Any, tower: Any, needs: Any) -> Any:
        if next(count) in calls:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(self, texts, tower, needs)

    BiEncoder.encode_part = encode_part  # type: ignore[method-assign]
    try:
        yield
    finally:
        BiEncoder.encode_part = original  # type: ignore[method-assign]


def main(rank: int, size: int, meeting: str, jobs: Path, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    world = World.from_process_group()
    results: list[Any] = []
    for number, (content, steps, failing) in enumerate(json.loads(jobs.read_text())):
        config = TrialConfig.model_validate(content)
        with out_of_memory_at(failing.get(str(world.rank), [])):
            if steps == RANK:
                results.append(rank_split(config, world))
            elif steps == VALIDATE:
                results.append(validated(config, world))
            elif steps:
                results.append(take_steps(config, steps, world))
            else:
                told = [failing.get(f"{when} {rank}", []) for when in ("interrupt", "look")]
                results.append(reports_of(config, jobs.parent / f"trial{number}", world, *told))
    torch.save(results, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]))
