"""Killing processes of a campaign at random moments, to see that nothing is lost: what `jobs/chaos.py` runs.

The driver dies (and is started again with --resume), or a search, a trial, a Train worker, or the coordinator. The campaign must end with the
same promoted checkpoints as one that nobody disturbed, byte for byte.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from raydistill.errors import CheckpointError, ConfigError, DataError, RayDistillError, TrainingError
from raydistill.orchestration.processes import titled
from raydistill.orchestration.rundir import open_run

DRIVER = "driver"
VICTIMS = (
    DRIVER,
    "ray::Coordinator",
    "ray::StudyRunner",
    "ray::ResourceTrainable",
    "ray::RayTrainWorker",
)
"""The driver, and the beginnings of the titles that Ray gives to a campaign's processes."""
LONGEST_SECONDS = 3600.0
KINDS: dict[int, type[RayDistillError]] = {one.exit_code: one for one in (ConfigError, DataError, CheckpointError)}
"""What a driver's exit code says of its error; whatever else ended it, training cannot go on."""


@dataclass(frozen=True)
class Plan:
    """What to disturb, and how.

    Attributes:
        config: the campaign's file.
        overrides: values to override in it, as KEY=VALUE.
        kills: in each campaign.
        every: seconds between kills, on average.
    """

    config: Path
    overrides: tuple[str, ...] = ()
    kills: int = 10
    every: float = 45.0


@dataclass(frozen=True)
class Outcome:
    """What became of one campaign.

    Attributes:
        seed: decides moments and victims.
        kills: who was killed, in order.
        planned: how many should have been.
        same: whether it promoted what the undisturbed campaign did.
        redone: trials that had finished before a kill and were trained again.
        orphans: processes of it that were left 15 seconds after its end.
        seconds: wall time.
        trials: seconds that the trials of the undisturbed campaign took from beginning to last report, with the start of a process, validations and checkpoints.
        useful: seconds that their training steps took.
    """

    seed: int
    kills: tuple[str, ...]
    planned: int
    same: bool
    redone: int
    orphans: int
    seconds: float
    trials: float
    useful: float

    @property
    def sound(self) -> bool:
        """Whether all planned kills were made, and it ended as if nothing had happened."""
        return self.same and not self.redone and not self.orphans and len(self.kills) == self.planned


def start(config: Path, root: Path, overrides: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a driver, or start it again where the run has begun."""
    settings = [part for one in ("storage.share_trials=false", *overrides) for part in ("--set", one)]
    resume = ["--resume"] if (root / "config.yaml").exists() else []
    command = [sys.executable, "-m", "raydistill", "run", str(config), "--run-dir", str(root), *settings, *resume]
    root.parent.mkdir(parents=True, exist_ok=True)
    # A file, because nobody reads a pipe while it runs.
    with open(said_by(root), "a") as file:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)


def said_by(root: Path) -> Path:
    """Where what the drivers of a run say is kept, beside the run."""
    return root.with_name(f"{root.name}.log")


def _ended(root: Path, code: int) -> RayDistillError:
    """The error that a driver ended with, in its own words: the last line it said, and what is indented below it."""
    said = said_by(root).read_text(encoding="utf-8", errors="replace").splitlines()
    begins = max((place for place, line in enumerate(said) if line[:1].strip()), default=0)
    words = "\n".join(said[begins:]).removeprefix("error: ").rstrip()
    kind = KINDS.get(code, TrainingError)
    return kind(f"{root}: the driver ended with {code} (see {said_by(root)}): {words or 'it said nothing'}")


def kill(victim: str, driver: subprocess.Popen[Any]) -> bool:
    """Kill the driver, or the first process below it with this title; False where there is none at the moment."""
    if victim == DRIVER:
        driver.kill()
        return True
    for process in titled(psutil.Process(driver.pid).children(recursive=True), victim):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            return True
    return False


def promoted(root: Path) -> dict[tuple[str, int], str]:
    """Digests of a run's results."""
    return {place: promotion.digest for place, promotion in open_run(root).promotions.items()}


def finished_epochs(root: Path) -> dict[tuple[str, int, int], list[float]]:
    """When the epochs of finished trials were reported."""
    if not (root / "config.yaml").exists():
        return {}
    trials = open_run(root).trials
    return {key: [one["time"] for one in trial.reports] for key, trial in trials.items() if trial.status == "finished"}


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many were sound, and goodput: the share of the wall time in which the same trials run where nothing dies, and their steps."""
    sound, wall = sum(one.sound for one in outcomes), max(sum(one.seconds for one in outcomes), 1e-9)
    trials, steps = (
        100 * sum(each) / wall for each in zip(*((one.trials, one.useful) for one in outcomes), strict=True)
    )
    return f"{sound} of {len(outcomes)} campaigns ended as if undisturbed; goodput {trials:.0f} % (training steps alone {steps:.0f} %)"


def trial_seconds(root: Path) -> float:
    """Seconds from the beginning of each trial to its last report, added up."""
    return sum(
        float(trial.reports[-1]["time"]) - trial.begun for trial in open_run(root).trials.values() if trial.reports
    )


def training_seconds(root: Path) -> float:
    """Seconds of all training steps."""
    return sum(
        # A report that was saved by a process and told by the next one has none.
        float(report["metrics"].get("seconds", 0.0))
        for trial in open_run(root).trials.values()
        for report in trial.reports
    )


def disturbed(plan: Plan, root: Path, undisturbed: Path, seed: int) -> Outcome:
    """Run one campaign to its end, killing on the way.

    Args:
        plan: what to disturb, and how.
        root: where to run it.
        undisturbed: a run of the same campaign that nobody disturbed.
        seed: decides moments and victims.

    Raises:
        RayDistillError: a driver ended with an error of its own.
        RuntimeError: the campaign does not come to its end.
    """
    chance, kills, family = random.Random(seed), list[str](), set[psutil.Process]()
    finished: dict[tuple[str, int, int], list[float]] = {}
    began = time.monotonic()
    due = began + _pause(chance, plan)
    driver = start(plan.config, root, plan.overrides)
    try:
        while True:
            with contextlib.suppress(psutil.NoSuchProcess):
                family |= set(psutil.Process(driver.pid).children(recursive=True))
            code = driver.poll()
            if code == 0:
                break
            if code is not None:
                if code != -9:
                    raise _ended(root, code)
                driver = start(plan.config, root, plan.overrides)
            if time.monotonic() > began + LONGEST_SECONDS:
                raise RuntimeError(f"{root}: not over after {LONGEST_SECONDS:g} s; kills: {kills}")
            if len(kills) < plan.kills and time.monotonic() > due:
                before, victim = finished_epochs(root), chance.choice(VICTIMS)
                if kill(victim, driver):
                    kills.append(victim)
                    finished |= before
                    due = time.monotonic() + _pause(chance, plan)
            time.sleep(0.1)
    finally:
        # Whatever ended this, no campaign is left behind.
        driver.kill()
    seconds = time.monotonic() - began
    _, alive = psutil.wait_procs(family, timeout=15)
    final = finished_epochs(root)
    redone = sum(final.get(key) != times for key, times in finished.items())
    same, useful = promoted(root) == promoted(undisturbed), (trial_seconds(undisturbed), training_seconds(undisturbed))
    return Outcome(seed, tuple(kills), plan.kills, same, redone, len(alive), seconds, *useful)


def _pause(chance: random.Random, plan: Plan) -> float:
    """Seconds until the next kill. Bounded, so that all of them find the campaign still running."""
    return plan.every * chance.uniform(0.5, 1.5)


def chaos(plan: Plan, out: Path, campaigns: int, seed: int = 0) -> Iterator[Outcome]:
    """Run the campaign once undisturbed, then again and again with kills.

    Raises:
        RayDistillError: a driver ended with an error of its own.
        RuntimeError: a campaign does not come to its end.
    """
    undisturbed = out / "undisturbed"
    driver = start(plan.config, undisturbed, plan.overrides)
    if driver.wait():
        raise _ended(undisturbed, driver.returncode)
    for number in range(campaigns):
        yield disturbed(plan, out / f"{number:02d}", undisturbed, seed + number)
