"""Kill processes of a campaign at random moments and see what is left of it: python jobs/chaos.py CONFIG OUT [--campaigns 10] [--kills 10] [--every 45].

The campaign is run once undisturbed, then again and again with kills: of the driver (which is then started with --resume), of a search, of a trial, of a
Train controller or worker, of the coordinator. Each must end with the same promoted checkpoints, byte for byte.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from raydistill.orchestration.rundir import open_run

DRIVER = "driver"
VICTIMS = (
    DRIVER,
    "ray::Coordinator",
    "ray::StudyRunner",
    "ray::ResourceTrainable",
    "ray::TrainController",
    "ray::RayTrainWorker",
)
"""The driver, and the beginnings of the titles that Ray gives to a campaign's processes."""
LONGEST_SECONDS = 3600.0


@dataclass(frozen=True)
class Outcome:
    """What became of one campaign.

    Attributes:
        seed: decides moments and victims.
        kills: who was killed, in order.
        same: whether it promoted what the undisturbed campaign did.
        redone: trials that had finished before a kill and were trained again.
        orphans: processes of it that were left 15 seconds after its end.
        seconds: wall time.
        goodput: seconds of epochs that count, by wall time.
    """

    seed: int
    kills: tuple[str, ...]
    same: bool
    redone: int
    orphans: int
    seconds: float
    goodput: float


def start(config: Path, root: Path, overrides: Sequence[str]) -> subprocess.Popen[str]:
    """Start a driver, or start it again where the run has begun."""
    settings = [part for one in ("storage.share_trials=false", *overrides) for part in ("--set", one)]
    resume = ["--resume"] if (root / "config.yaml").exists() else []
    command = [sys.executable, "-m", "raydistill", "run", str(config), "--run-dir", str(root), *settings, *resume]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill(victim: str, driver: subprocess.Popen[str]) -> bool:
    """Kill the driver, or the first process below it with this title; False where there is none at the moment."""
    if victim == DRIVER:
        driver.kill()
        return True
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(victim):
                process.kill()
                return True
        except psutil.NoSuchProcess:
            continue
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


def disturbed(
    config: Path, root: Path, expected: dict[tuple[str, int], str], given: argparse.Namespace, seed: int
) -> Outcome:
    """Run one campaign to its end, killing on the way.

    Raises:
        RuntimeError: a driver ended with an error of its own.
    """
    chance, kills, family = random.Random(seed), list[str](), set[psutil.Process]()
    finished: dict[tuple[str, int, int], list[float]] = {}
    began = time.monotonic()
    due = began + chance.expovariate(1 / given.every)
    driver = start(config, root, given.set)
    while True:
        with contextlib.suppress(psutil.NoSuchProcess):
            family |= set(psutil.Process(driver.pid).children(recursive=True))
        code = driver.poll()
        if code == 0:
            break
        if code is not None:
            if code != -9:
                raise RuntimeError(f"{root}: the driver ended with {code}: {driver.stderr and driver.stderr.read()}")
            driver = start(config, root, given.set)
        if time.monotonic() > began + LONGEST_SECONDS:
            raise RuntimeError(f"{root}: not over after {LONGEST_SECONDS:g} s; kills: {kills}")
        if len(kills) < given.kills and time.monotonic() > due:
            before, victim = finished_epochs(root), chance.choice(VICTIMS)
            if kill(victim, driver):
                kills.append(victim)
                finished |= before
                due = time.monotonic() + chance.expovariate(1 / given.every)
        time.sleep(0.1)
    seconds = time.monotonic() - began
    _, alive = psutil.wait_procs(family, timeout=15)
    final = finished_epochs(root)
    redone = sum(final.get(key) != times for key, times in finished.items())
    useful = sum(
        one["metrics"].get("seconds", 0.0) for trial in open_run(root).trials.values() for one in trial.reports
    )
    return Outcome(seed, tuple(kills), promoted(root) == expected, redone, len(alive), seconds, useful / seconds)


def main() -> None:
    """Run everything, print a line per campaign, write OUT/chaos.json; exit code 1 where a campaign ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--campaigns", type=int, default=10)
    parser.add_argument("--kills", type=int, default=10, help="in each campaign")
    parser.add_argument("--every", type=float, default=45.0, help="seconds between kills, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the configuration"
    )
    given = parser.parse_args()
    undisturbed = given.out / "undisturbed"
    began = time.monotonic()
    driver = start(given.config, undisturbed, given.set)
    _, said = driver.communicate()
    if driver.returncode:
        sys.exit(f"the undisturbed campaign ended with {driver.returncode}: {said}")
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    expected = promoted(undisturbed)
    outcomes = []
    for number in range(given.campaigns):
        outcomes.append(disturbed(given.config, given.out / f"{number:02d}", expected, given, given.seed + number))
        print(json.dumps(asdict(outcomes[-1])), flush=True)
    (given.out / "chaos.json").write_text(json.dumps([asdict(one) for one in outcomes], indent=2) + "\n")
    sound = sum(one.same and not one.redone and not one.orphans for one in outcomes)
    goodput = sum(one.goodput * one.seconds for one in outcomes) / max(sum(one.seconds for one in outcomes), 1e-9)
    print(f"{sound} of {len(outcomes)} campaigns ended as if undisturbed; goodput {100 * goodput:.0f} %")
    sys.exit(sound < len(outcomes))


if __name__ == "__main__":
    main()
