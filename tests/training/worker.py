"""One of several workers of a trial: `python worker.py RANK SIZE MEETING JOBS OUT`.

JOBS is a JSON list of [configuration, steps]; OUT gets, per job, the gradients of every step, the averages, and what `run_trial` reports.
Also imported by the tests, for the same numbers from a single worker.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raydistill.config.trial import TrialConfig
from raydistill.training.gather import World
from raydistill.training.parts import build_parts
from raydistill.training.trial import run_trial


def take_steps(config: TrialConfig, steps: int, world: World) -> dict[str, Any]:
    """The first steps of a trial: gradients before each step, averages and weights after the last."""
    parts = build_parts(config, world)
    gradients: list[dict[str, torch.Tensor]] = []
    step = parts.optimizer.step

    def keep(number: int) -> None:
        gradients.append({name: p.grad.clone() for name, p in parts.optimizer.named if p.grad is not None})
        step(number)

    parts.optimizer.step = keep  # type: ignore[method-assign]
    for taken in parts.trainer.run_epoch():
        if taken == steps:
            break
    return {"gradients": gradients, "averages": parts.trainer.averages(), "weights": parts.student.state_dict()}


def main(rank: int, size: int, meeting: str, jobs: Path, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    world = World.from_process_group()
    results = []
    for number, (content, steps) in enumerate(json.loads(jobs.read_text())):
        config = TrialConfig.model_validate(content)
        if steps:
            results.append(take_steps(config, steps, world))
        else:
            results.append([asdict(report) for report in run_trial(config, jobs.parent / f"trial{number}", world)])
    torch.save(results, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]))
