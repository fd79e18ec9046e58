"""A trial that is told to end saves where it stands, and goes on from there as if nothing had happened."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.config.trial import TrialConfig
from raydistill.data.texts import Texts
from raydistill.errors import TrialInterruptedError
from raydistill.evaluation import encode
from raydistill.teachers import cache
from raydistill.teachers.cache import CachedTeacher
from raydistill.teachers.views import LiveTeacher
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

    def counted(self: Optimizer, number: int, unless: torch.Tensor | None = None) -> None:
        step_of(self, number, unless)
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
    config, looked = config_of("pmd", **SETTINGS), after(1)
    # Before the second micro-batch of the validation.
    assert until_interrupted(config, tmp_path, lambda: bool(ranked) and looked()) == []
    assert len(ranked) == 1
    kept = newest_good(tmp_path / "checkpoints")
    assert kept is not None
    position = load_training_state(kept).position
    assert (position["epoch"], position["step_in_epoch"], position["history"]) == (0, 4, [])
    reports = train(config, tmp_path)
    assert [report.digest for report in reports] == [report.digest for report in straight]


@pytest.mark.parametrize("evaluate_every", [1, 2])
def test_teachers_pass_does_not_keep_a_trial_from_ending(
    config_of: Config, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluate_every: int
) -> None:
    """A preempted machine on which the teacher goes over millions of texts until it is switched off; an epoch that was not validated is lost with
    it; or the trial goes on from another teacher's outputs than it would have had.

    Told to end again and again, in the middle of the second part of every pass: that of the first epoch, and that of the second one's corruptions.
    """
    monkeypatch.setattr(cache, "TEXTS_OF_A_SHARD", 9)
    training = {**SETTINGS["training"], "corruptions": 2, "evaluate_every": evaluate_every}
    config = config_of("pmd", **{**SETTINGS, "training": training})
    straight = train(config, tmp_path / "straight")
    reports: dict[int, EpochReport] = {}
    parts: list[int] = []
    taken: list[int] = []
    ends: list[str] = []
    encode_of, step_of = LiveTeacher.encode, Optimizer.step

    def encode(self: LiveTeacher, texts: Texts, *rest: Any) -> Any:
        parts.append(len(texts))
        return encode_of(self, texts, *rest)

    def step(self: Optimizer, number: int, unless: torch.Tensor | None = None) -> None:
        step_of(self, number, unless)
        taken.append(number)

    monkeypatch.setattr(LiveTeacher, "encode", encode)
    monkeypatch.setattr(Optimizer, "step", step)
    for _ in range(40):
        parts.clear()
        try:
            for report in run_trial(config, tmp_path / "cut", World.alone(), None, lambda: len(parts) > 1):
                reports[report.epoch] = report
            break
        except TrialInterruptedError as problem:
            ends.append(problem.received)
            assert len(parts) == 2
    assert set(ends) == {f"interrupted in epoch {number} after step 0" for number in (1, 2)}
    assert taken == list(range(12))
    assert {epoch: one.digest for epoch, one in reports.items()} == {one.epoch: one.digest for one in straight}


def test_trial_that_is_told_to_end_while_it_is_built_begins_nothing(
    config_of: Config, train: Train, straight: list[EpochReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher's pass, or a step, of a process that was told to end while it loaded its models."""
    config, begun = config_of("pmd", **SETTINGS), list[str]()
    for kind, name in ((CachedTeacher, "_shards"), (Optimizer, "step")):
        monkeypatch.setattr(kind, name, lambda *things, name=name: begun.append(name))
    assert until_interrupted(config, tmp_path, lambda: True) == []
    assert begun == []
    assert newest_good(tmp_path / "checkpoints") is None
    monkeypatch.undo()
    assert [report.digest for report in train(config, tmp_path)] == [report.digest for report in straight]


@pytest.mark.slow
def test_workers_leave_the_teachers_pass_together(config_of: Config, tmp_path: Path) -> None:
    """Workers that wait for ever for one that was told to end while its teacher read the texts; or one that steps without what it left."""
    config = config_of("pmd", **SETTINGS)
    # The second worker is told at its third look, whether it encodes then or waits for what the first one encodes.
    found = run_workers(tmp_path, [(config, 0, {}), (config, 0, {"look 1": [3]})], 2)
    assert [one[1] for one in found] == [["interrupted"]] * 2
    assert newest_good(tmp_path / "trial1" / "checkpoints") is None
    (tmp_path / "meeting").unlink(missing_ok=True)
    again, _ = run_workers(tmp_path, [(config, 0, {})] * 2, 2)
    assert [one["digest"] for one in again[1]] == [one["digest"] for one in found[0][0]]


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
    sent: list[list[int]] = []
    for rank in (1, 0):
        parts.trainer.world = World(rank, 2)
        keeper = CheckpointKeeper(tmp_path, keep=2, writes=rank == 0)
        look = Interruption(lambda: True, keeper, lambda: sent.append(list(saves))).while_validating(parts)
        look(0), look(1)
    assert saves == [0]
    assert sent == [[0]], "told once, when the checkpoint is there"
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
def test_two_workers_go_on_with_the_same_bits(config_of: Config, tmp_path: Path) -> None:
    """A policy, mask, range, block or projection that the first worker saves and the second one begins anew: both would go on, apart."""
    methods = {"reinforced": {}, "homodistil": {}, "dq": {}, "education": {"layers": 3}, "tinybert": {}}
    settings = {**SETTINGS, "view": "shared", "training": {**SETTINGS["training"], "epochs": 2}}
    configs = [config_of(name, **{**settings, **changes}) for name, changes in methods.items()]
    folders = [tmp_path / "straight", tmp_path / "parted"]
    for folder in folders:
        folder.mkdir()
    straight, _ = run_workers(folders[0], [(config, 0, {}) for config in configs], 2)
    # After the second of eight steps, where masks and blocks are there, and after the sixth: in the middle of the first epoch and of the second one.
    for steps in (2, 4):
        told = run_workers(folders[1], [(config, 0, {"interrupt 1": [steps]}) for config in configs], 2)
        assert [one[-1] for rank in told for one in rank] == ["interrupted"] * 2 * len(configs)
        (folders[1] / "meeting").unlink(missing_ok=True)
    again, _ = run_workers(folders[1], [(config, 0, {}) for config in configs], 2)
    for name, whole, parted in zip(methods, straight, again, strict=True):
        assert [report["epoch"] for report in parted] == [2], name
        assert parted[-1]["digest"] == whole[-1]["digest"], name


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
