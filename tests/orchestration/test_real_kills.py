"""The real trainer on a tiny encoder: processes die by SIGKILL at random moments, and the promoted checkpoints are the same bytes.

One moment of the driver by default; `RAYDISTILL_KILLS=5` tries five moments of it, of a trial, of a Train worker, and of a driver with Train workers.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fakes
import psutil
import pytest
import yaml

from raydistill.config.load import load_config
from raydistill.orchestration.chaos import kill, promoted
from raydistill.orchestration.rundir import open_run
from raydistill.orchestration.workshop import standard_workshop

pytestmark = [pytest.mark.ray, pytest.mark.slow]
MOMENTS = int(os.environ.get("RAYDISTILL_KILLS", "1"))
ORPHAN_SECONDS = 15
BACK_ENDS = {"inline": {"workers_per_trial": 1}, "train": {"workers_per_trial": 2}}
GRADES = {
    "inline": [{"layers": 3, "mask_ratio": {"choice": [0.0, 0.2]}}, {"layers": 2, "mask_ratio": 0.2}],
    "train": [{"layers": 2, "mask_ratio": 0.2}],
}
VICTIMS = [("driver", "inline")]
if "RAYDISTILL_KILLS" in os.environ:
    VICTIMS += [("ray::ResourceTrainable", "inline"), ("ray::RayTrainWorker", "train"), ("driver", "train")]


@pytest.fixture(scope="module")
def campaign(
    tmp_path_factory: pytest.TempPathFactory, dataset_folder: Path, encoder_folder: Callable[..., Path]
) -> Callable[[str], Path]:
    """The configuration file of a teacher and two grades, with dropout, masks and checkpoints inside epochs."""

    def write(back_end: str) -> Path:
        folder = tmp_path_factory.mktemp("campaign")
        content = {
            "data": {"path": str(dataset_folder), "max_tokens": 32},
            "encoder": {"name": str(encoder_folder("bert", dropout=0.1))},
            "grades": GRADES[back_end],
            "search": {"algorithm": "grid"},
            "training": {
                "batch_size": 6,
                "epochs": 5,
                "learning_rate": 1e-3,
                "precision": "fp32",
                "checkpoint_steps": 2,
            },
            "resources": {"backend": back_end, "concurrent_trials": 1, "cpus_per_worker": 1, **BACK_ENDS[back_end]},
        }
        path = folder / "campaign.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture(scope="module")
def undisturbed(
    campaign: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[tuple[str, int], str]]:
    """Digests an undisturbed run of a back end promotes; run once each."""
    known: dict[str, dict[tuple[str, int], str]] = {}

    def digests(back_end: str) -> dict[tuple[str, int], str]:
        if back_end not in known:
            root = tmp_path_factory.mktemp("undisturbed") / "run"
            # Trials of one worker need no Ray to be run one after another.
            if back_end == "inline":
                known[back_end] = fakes.expected(load_config(campaign(back_end)), root, standard_workshop())
                return known[back_end]
            driver = start(root, campaign(back_end))
            assert driver.wait(500) == 0, driver.stderr and driver.stderr.read()
            known[back_end] = promoted(root)
        return known[back_end]

    return digests


def start(root: Path, config: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "raydistill", "run", str(config), "--run-dir", str(root), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def reports(root: Path) -> int:
    return sum(len(trial.reports) for trial in open_run(root).trials.values()) if (root / "ledger").exists() else 0


def wait_for_moment(root: Path, driver: subprocess.Popen[str], chance: random.Random, back_end: str) -> None:
    """A random moment: after any report, or (one time in five) while a grade is being promoted."""
    deadline = time.monotonic() + 500
    if chance.random() < 0.2:
        grade = chance.randint(0, len(GRADES[back_end]))
        trials = 2 if (back_end, grade) == ("inline", 1) else 1
        due, longest = (lambda: trained(root, grade, trials)), 0.1
    else:
        wanted = chance.randint(1, 14 if back_end == "inline" else 7)
        due, longest = (lambda: reports(root) >= wanted), 0.3
    while not due() and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(chance.uniform(0.0, longest))


def trained(root: Path, grade: int, expected: int) -> bool:
    """Whether a grade has trained all there is, so that it is promoted now."""
    trials = open_run(root).of("main", grade) if (root / "ledger").exists() else []
    return len(trials) == expected and all(one.status == "finished" for one in trials)


@pytest.mark.parametrize("moment", range(MOMENTS))
@pytest.mark.parametrize(("victim", "back_end"), VICTIMS)
def test_promoted_checkpoints_are_the_same_bytes_after_a_kill(
    victim: str,
    back_end: str,
    moment: int,
    campaign: Callable[[str], Path],
    undisturbed: Callable[[str], dict[tuple[str, int], str]],
    tmp_path: Path,
) -> None:
    """A resumed trial that began an epoch with other masks, moments or dropout would promote another model, and nobody would know."""
    expected = undisturbed(back_end)
    root, config = tmp_path / "run", campaign(back_end)
    driver = start(root, config)
    wait_for_moment(root, driver, random.Random(f"{victim} {back_end} {moment}"), back_end)
    killed, family = False, list[psutil.Process]()
    while driver.poll() is None and not killed:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(driver.pid).children(recursive=True)
        killed = kill(victim, driver)
        time.sleep(0.05)
    assert killed, f"the campaign was over before {victim} could be killed"
    finished = {key for key, trial in open_run(root).trials.items() if trial.status == "finished"}
    epochs = {key: [report["time"] for report in open_run(root).trials[key].reports] for key in finished}
    code = driver.wait(500)
    if victim == "driver":
        _, orphans = psutil.wait_procs(family, timeout=ORPHAN_SECONDS)
        assert not orphans
    if victim == "driver" or code != 0:
        again = start(root, config, "--resume")
        assert again.wait(500) == 0, again.stderr and again.stderr.read()
    state = open_run(root)
    assert promoted(root) == expected
    assert {key: [report["time"] for report in state.trials[key].reports] for key in finished} == epochs
    done = subprocess.run([sys.executable, "-m", "raydistill", "verify", str(root)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
