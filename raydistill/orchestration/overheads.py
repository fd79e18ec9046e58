"""What orchestration costs beside the training it runs: trials of one grade through Ray against the same trial in this process; calls; replays."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from raydistill.config.schema import CampaignConfig, GradeSection
from raydistill.config.space import LogUniform
from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.devices import best_device
from raydistill.errors import CapabilityError, RayDistillError
from raydistill.orchestration.campaign import Campaign
from raydistill.orchestration.cluster import connected
from raydistill.orchestration.joining import settled
from raydistill.orchestration.machines import room_of
from raydistill.orchestration.speeds import CLIENTS, EVENTS, calls_per_second, replay_seconds
from raydistill.orchestration.study import trial_directory
from raydistill.orchestration.workshop import standard_workshop
from raydistill.planning.places import workers_that_fit
from raydistill.planning.state import CampaignState

Backend = Literal["inline", "train"]
Part = Literal["replay", "calls", "workers"] | Backend
TRIALS = 4
MOST_WORKERS = 8
SPREAD = LogUniform(log_uniform=(0.9, 1.1))
GRADE = 1


class BackendCost(NamedTuple):
    """What a back end adds to a trial.

    Attributes:
        backend: which.
        alone: seconds the same trial takes in this process, without Ray, after one to warm up.
        first: seconds the first trial of the campaign, that of its teacher where there is none yet, takes beyond its own without Ray; its process has to start.
        later: seconds every trial of the measured grade but its first does, the median.
        next: seconds the first trial of the grade after it does, beyond its own without Ray.
        report: seconds from one report to the next beyond those without Ray, the median.
    """

    backend: Backend
    alone: float
    first: float
    later: float
    next: float
    report: float


def measured(part: Part, config: CampaignConfig, out: Path) -> dict[str, float | str]:
    """One part of the benchmark, by name, written below `out`, where nothing is left of its last time."""
    for earlier in (out / part, out / "alone" / part, *out.glob(f"{part}[0-9]*")):
        shutil.rmtree(earlier, ignore_errors=True)
    if part == "replay":
        return {"seconds": replay_seconds(out / part), "events": EVENTS}
    if part == "calls":
        return {"per_second": calls_per_second(out / part), "clients": CLIENTS}
    if part == "workers":
        return _as_workers_double(config, out)
    return backend_cost(config, part, out)._asdict()


def backend_cost(config: CampaignConfig, backend: Backend, out: Path) -> BackendCost:
    """Run some trials of a campaign's last grade one after another, on one CPU each, and one of another such grade under the best; then some of them without Ray.

    Args:
        config: where data, encoder, method and epochs come from; its last grade is measured under its teacher.
        backend: how trials run.
        out: where to write; the teacher in `out/inline` is used again for the other back end.

    Raises:
        CapabilityError: that grade has a single report, or its trials another device than this process.
    """
    measured = _measured(config, backend, out)
    if best_device().type == "cuda" and config.resources.gpus_per_worker == 0:
        raise CapabilityError(
            "trials train on CPUs, and this process would on a GPU",
            expected="one device for a trial under Ray and for the same trial without it",
            remedy="leave resources.gpus_per_worker out, or hide the GPU (CUDA_VISIBLE_DEVICES=)",
        )
    below = measured.grades[0].model_copy(update={"learning_rate": None, "trials": 1})
    root = out / backend
    state = Campaign(measured.model_copy(update={"grades": (*measured.grades, below)}), root).run()
    records, [following] = (state.of(state.lineages[0], grade) for grade in (GRADE, GRADE + 1))
    earliest = min(state.trials.values(), key=lambda one: one.begun)
    alone, earliest_alone, below_alone = (
        _alone(trial_directory(root, state.grades[one.grade], one.identity), out / "alone")
        for one in (records[-1], earliest, following)
    )
    ends = [record.reports[-1]["time"] for record in records]
    gaps = [second["time"] - first["time"] for record in records for first, second in pairwise(record.reports)]
    return BackendCost(
        backend,
        alone[-1],
        earliest.reports[-1]["time"] - earliest.begun - earliest_alone[-1],
        statistics.median(later - earlier for earlier, later in pairwise(ends)) - alone[-1],
        following.reports[-1]["time"] - following.begun - below_alone[-1],
        statistics.median(gaps) - statistics.median(later - earlier for earlier, later in pairwise(alone)),
    )


def examples_per_second(config: CampaignConfig, workers: int, out: Path) -> float:
    """Of a campaign's last grade, trained by so many Train workers of one CPU each; the median of its epochs but the first.

    Args:
        config: a campaign whose last grade has at least two epochs.
        workers: of the trial.
        out: where to write; the teacher in `out`'s neighbour `inline` is used again.
    """
    measured = _measured(config, "train", out.parent)
    grade = measured.grades[0].model_copy(update={"learning_rate": None, "trials": 1})
    resources = measured.resources.model_copy(update={"workers_per_trial": workers})
    state = Campaign(measured.model_copy(update={"grades": (grade,), "resources": resources}), out).run()
    [record] = state.of(state.lineages[0], GRADE)
    return float(statistics.median(report["metrics"]["examples_per_second"] for report in record.reports[1:]))


def _as_workers_double(config: CampaignConfig, out: Path) -> dict[str, float | str]:
    """Examples per second of one worker, of two and so on, as far as the machines have room; and how many times those of one."""
    asked = _measured(config, "train", out).resources
    with connected():
        room = room_of(asked)
        most = min(MOST_WORKERS, workers_that_fit(settled(asked, room), 1.0, room.machines))
    found: dict[str, float | str] = {}
    one = 0.0
    for workers in (2**doubled for doubled in range(max(1, most).bit_length())):
        name = f"{workers} workers"
        try:
            rate = examples_per_second(config, workers, out / f"workers{workers}")
        except RayDistillError as problem:
            if not found:
                raise
            # What was measured before is not lost with it.
            found[name] = problem.received
            break
        one = one or rate
        found[f"{name}, examples/s"] = rate
        if workers > 1:
            found[f"{workers} times one"] = rate / one
    return found


def _measured(config: CampaignConfig, backend: Backend, out: Path) -> CampaignConfig:
    last = config.grades[-1]
    epochs, every = last.epochs or config.training.epochs, config.training.evaluate_every
    if epochs <= every:
        raise CapabilityError(
            f"the last grade has {epochs} epoch{'s' if epochs > 1 else ''}, of which training.evaluate_every {every} has one reported",
            expected="at least 2 reports, since the time between them is measured",
            remedy="set training.epochs or epochs of that grade higher, or training.evaluate_every lower",
        )
    rate = last.learning_rate if isinstance(last.learning_rate, float) else config.training.learning_rate
    low, high = (rate * factor for factor in SPREAD.log_uniform)
    fixed = {
        "layers": last.layers,
        "epochs": last.epochs,
        "init": last.init if isinstance(last.init, str) else "teacher",
    }
    grade = GradeSection.model_validate({**fixed, "learning_rate": {"log_uniform": (low, high)}, "trials": TRIALS})
    teacher = config.teacher
    promoted = (out / "inline" / "ledger").exists() and _teacher(out / "inline")
    if promoted:
        teacher = teacher.model_copy(update={"checkpoint": promoted})
    resources = config.resources.model_copy(
        update={"backend": backend, "workers_per_trial": 1, "cpus_per_worker": 1.0, "concurrent_trials": 1}
    )
    search = config.search.model_copy(update={"algorithm": "random", "early_stopping": "none"})
    storage = config.storage.model_copy(update={"share_trials": False})
    # The first trial of a grade would compute what the teacher says, and later ones read it.
    training = config.training.model_copy(update={"remember_teacher": False})
    # Without Ray nobody would announce the teacher that a pipelined trial waits for.
    schedule = config.schedule.model_copy(update={"name": "sequential"})
    changes = {
        "grades": (grade,),
        "teacher": teacher,
        "resources": resources,
        "search": search,
        "storage": storage,
        "training": training,
    }
    return config.model_copy(update={**changes, "schedule": schedule, "compare": None, "ladders": None})


def _teacher(root: Path) -> str:
    from raydistill.orchestration.rundir import open_run

    state: CampaignState = open_run(root)
    return state.promotions[state.lineages[0], 0].checkpoint


def _alone(trial: Path, folder: Path) -> list[float]:
    """Seconds to each report of a trial, and to its end, in this process: of the second time it is run."""
    content = json.loads((trial / "trial.json").read_text())
    content.pop("identity")
    config, workshop = TrialConfig.model_validate(content), standard_workshop()
    workshop.set_threads(1)
    for turn in ("first", "second"):
        began = time.perf_counter()
        directory = folder / trial.parents[3].name / trial.name / turn
        times = [
            time.perf_counter() - began
            for _ in workshop.run_trial(config, directory, workshop.world(False), _no_change, _never)
        ]
    return times


def _never() -> bool:
    return False


def _no_change(epoch: int) -> TeacherReference | None:
    return None
