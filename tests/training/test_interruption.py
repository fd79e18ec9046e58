"""A trial that is told to end saves where it stands, and goes on from there as if nothing had happened."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.config.trial import TrialConfig
from raydistill.errors import TrialInterruptedError
from raydistill.evaluation import encode
from raydistill.training.checkpoint import load_training_state, newest_good
from raydistill.training.gather import World
from raydistill.training.interruption import Interruption
from raydistill.training.keeping import CheckpointKeeper
from raydistill.training.optimizer import Optimizer
from raydistill.training.parts import TrialParts
from raydistill.training.trial import EpochReport, run_trial

sys.path.insert(0, str(Path(__file__).parent))
from worker import run_workers

Config = Callable[..., TrialConfig]
Train = Callable[..., list[EpochReport]]
SETTINGS: dict[str, Any] = {"encoder": {"dropout": 0.1}, "training": {"epochs": 3, "batch_size": 5}, "view": "separate"}
"""Four steps per epoch."""


def after(steps: int) -> Callable[[], bool]:
    """Says no so many times, then yes."""
    asked = iter(range(1000))
    return lambda: next(asked) >= steps


def until_interrupted(config: TrialConfig, directory: Path, asked: Callable[[], bool]) -> list[EpochReport]:
    """The reports of a trial that must end by an interruption."""
    reports: list[EpochReport] = []
    with pytest.raises(TrialInterruptedError):
        reports.extend(run_trial(config, directory, World.alone(), None, asked))
    return reports


@pytest.fixture(scope="module")
def straight(config_of: Config, train: Train, tmp_path_factory: pytest.TempPathFactory) -> list[EpochReport]:
    """What the trial reports when nobody interrupts it."""
    return train(config_of("pmd", **SETTINGS), tmp_path_factory.mktemp("straight"))


def test_trial_interrupted_after_every_step_loses_none_and_ends_with_the_same_bits(
    config_of: Config, train: Train, straight: list[EpochReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of an epoch lost with every preemption; a step taken twice; an epoch that is never validated."""
    config = config_of("pmd", **SETTINGS)
    reports: dict[int, EpochReport] = {}
    taken: list[int] = []
    step_of = Optimizer.step

    def counted(self: Optimizer, number: int) -> None:
        step_of(self, number)
        taken.append(number)

    monkeypatch.setattr(Optimizer, "step", counted)
    for step in range(1, 13):
        taken.clear()
        for report in until_interrupted(config, tmp_path, lambda: bool(taken)):
            reports[report.epoch] = report
        kept = newest_good(tmp_path / "checkpoints")
        assert kept is not None
        assert kept.name == f"{step:08d}"
    for report in train(config, tmp_path):
        reports[report.epoch] = report
    assert {epoch: one.digest for epoch, one in reports.items()} == {one.epoch: one.digest for one in straight}
    for one in straight:
        numbers = [
            (key, value) for key, value in one.metrics.items() if "seconds" not in key and "per_second" not in key
        ]
        assert [(key, reports[one.epoch].metrics[key]) for key, _ in numbers] == numbers


def test_validation_does_not_keep_a_trial_from_ending(
    config_of: Config, train: Train, straight: list[EpochReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preempted machine that ranks forty thousand entities until it is switched off, and with it an epoch's work."""
    ranked: list[int] = []
    evaluate = encode.evaluate

    def counted(*things: Any, **more: Any) -> Any:
        ranked.append(1)
        return evaluate(*things, **more)

    monkeypatch.setattr(encode, "evaluate", counted)
    config = config_of("pmd", **SETTINGS)
    # Asked once after each of four steps, then before micro-batches of the validation.
    assert until_interrupted(config, tmp_path, after(5)) == []
    assert len(ranked) == 1
    kept = newest_good(tmp_path / "checkpoints")
    assert kept is not None
    position = load_training_state(kept).position
    assert (position["epoch"], position["step_in_epoch"], position["history"]) == (0, 4, [])
    reports = train(config, tmp_path)
    assert [report.digest for report in reports] == [report.digest for report in straight]


def test_first_of_several_workers_saves_once_and_goes_on(
    parts_of: Callable[..., TrialParts], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A worker that leaves a validation by itself, for which the others wait; one that takes what it cannot do for done; or a second save for each
    micro-batch."""
    parts = parts_of("none", training=SETTINGS["training"])
    assert len(list(parts.trainer.run_epoch())) == 4
    saves: list[int] = []
    save = CheckpointKeeper.save_inside_epoch

    def counted(self: CheckpointKeeper, parts: TrialParts) -> None:
        saves.append(parts.trainer.world.rank)
        save(self, parts)

    monkeypatch.setattr(CheckpointKeeper, "save_inside_epoch", counted)
    for rank in (1, 0):
        parts.trainer.world = World(rank, 2)
        keeper = CheckpointKeeper(tmp_path, keep=2, writes=rank == 0)
        look = Interruption(lambda: True, keeper).while_validating(parts)
        look(0), look(1)
    assert saves == [0]
    kept = newest_good(tmp_path)
    assert kept is not None
    position = load_training_state(kept).position
    assert (position["epoch"], position["step_in_epoch"]) == (0, 4)
    assert (parts.trainer.progress.epoch, parts.trainer.progress.step_in_epoch) == (1, 0)


def test_finished_trial_is_not_interrupted(config_of: Config, train: Train, tmp_path: Path) -> None:
    """A trial that is over, and yet is taken up again and again."""
    config = config_of("none", training={"epochs": 1})
    [done] = train(config, tmp_path)
    [again] = list(run_trial(config, tmp_path, World.alone(), None, after(0)))
    assert (again.digest, again.finished) == (done.digest, True)


@pytest.mark.slow
def test_trial_goes_on_with_another_number_of_workers(config_of: Config, train: Train, tmp_path: Path) -> None:
    """A trial that lost a machine and goes on with fewer workers would learn from other negatives, masks or batches than it did.

    Interrupted by one of two workers, it goes on with three, none of which can have an equal share of five examples, then alone. Dropout is
    off, because each worker draws its own. Twice as long a way would show drift, so the tolerance is that of float32 sums in another order.
    """
    config = config_of("pmd", training=SETTINGS["training"] | {"learning_rate": 1e-4}, view="separate")
    whole = train(config, tmp_path / "whole")
    folder = tmp_path / "trial0"
    for number, (size, steps) in enumerate(((2, 2), (3, 2))):
        # The last of the workers is told; all end.
        found = run_workers(tmp_path, [(config, 0, {f"interrupt {size - 1}": [steps]})], size)
        (tmp_path / "meeting").unlink(missing_ok=True)
        assert all(one[0][-1] == "interrupted" for one in found), number
    kept = newest_good(folder / "checkpoints")
    assert kept is not None
    assert kept.name == "00000004"
    parted = train(config, folder)
    assert [one.epoch for one in parted] == [1, 2, 3]
    for one, other in zip(whole, parted, strict=True):
        assert one.metrics["loss"] == pytest.approx(other.metrics["loss"], abs=1e-5)
        for key in ("loss/ce", "loss/score", "loss/mgfd", "valid/both/mrr"):
            assert one.metrics[key] == pytest.approx(other.metrics[key], abs=1e-5), key


def test_one_worker_asks_nobody(config_of: Config) -> None:
    """A word between workers after every step, where there is only one."""
    assert World.alone().anyone(True) is True
    assert World.alone().anyone(False) is False
    assert not torch.distributed.is_initialized()
