"""A step that takes longer than a process that was told to end has left: what was learnt before it is saved beside it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydistill.config.trial import TrialConfig
from raydistill.errors import StorageError, TrialInterruptedError
from raydistill.training import interruption
from raydistill.training.checkpoint import load_training_state, newest_good
from raydistill.training.gather import World
from raydistill.training.gradient_cache import StudentPass
from raydistill.training.keeping import CheckpointKeeper
from raydistill.training.standstill import Standstill
from raydistill.training.terms.term import ContrastiveTerm
from raydistill.training.trial import EpochReport, run_trial

Config = Callable[..., TrialConfig]
Train = Callable[..., list[EpochReport]]
SETTINGS: dict[str, Any] = {"encoder": {"dropout": 0.1}, "training": {"epochs": 2, "batch_size": 5}}
"""Four steps per epoch."""
SECONDS = 30.0


class Killed(BaseException):
    """What a process dies of that had no time left."""


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is a long one."""
    monkeypatch.setattr(interruption, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(interruption, "LOOK_SECONDS", 0.01)


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def inside(step: int, then: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something in the middle of a step, from 1: on the way back, before weights change."""
    passed, backward = list[int](), StudentPass.backward

    def watched(self: StudentPass, loss: Any) -> None:
        backward(self, loss)
        passed.append(1)
        if len(passed) == step:
            then()

    monkeypatch.setattr(StudentPass, "backward", watched)


def die_in(
    step: int, config: TrialConfig, folder: Path, until: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """Run a trial that is told to end in the middle of a step, from 1, and killed in it as soon as `until`; how often something was to be sent."""
    sent, told = list[int](), threading.Event()

    def killed() -> None:
        told.set()
        wait_for(until)
        raise Killed

    with monkeypatch.context() as patched:
        inside(step, killed, patched)
        with pytest.raises(Killed):
            list(run_trial(config, folder, World.alone(), None, told.is_set, None, lambda: sent.append(1)))
    return sent


def written(folder: Path, step: int) -> Callable[[], bool]:
    """Whether a checkpoint of so many steps is there."""
    return (folder / "checkpoints" / f"{step:08d}").exists


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("pmd", {"view": "separate"}),
        ("pmd", {"training": {**SETTINGS["training"], "gradient_cache": "always"}}),
        ("dq", {}),
        ("homodistil", {}),
        ("reinforced", {}),
        ("tinybert", {}),
        ("self-feature", {}),
        ("pmd", {"contrastive": {"pre_batch": 2}}),
    ],
)
def test_trial_killed_in_a_long_step_goes_on_from_its_beginning_with_the_same_bits(
    config_of: Config, train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str, changes: Any
) -> None:
    """Half of a step in a checkpoint, what an attempt at it left, or an epoch of hours that a preemption takes back to its beginning."""
    config, folder = config_of(method, **{**SETTINGS, **changes}), tmp_path / "killed"
    straight = train(config, tmp_path / "straight")
    assert die_in(3, config, folder, written(folder, 2), monkeypatch) == [1]
    assert die_in(4, config, folder, written(folder, 5), monkeypatch) == [1]
    kept = newest_good(folder / "checkpoints")
    assert kept is not None
    position = load_training_state(kept).position
    assert (position["epoch"], position["step_in_epoch"]) == (1, 1)
    assert train(config, folder)[-1].digest == straight[-1].digest


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("every", [1, 2])
def test_first_step_of_an_epoch_leaves_a_validated_checkpoint_alone(
    config_of: Config, train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, every: int
) -> None:
    """The checkpoint of a validated epoch, written again without what it scored; or an epoch without validation that is lost."""
    config = config_of("pmd", **{**SETTINGS, "training": {**SETTINGS["training"], "evaluate_every": every}})
    straight, folder = train(config, tmp_path / "straight"), tmp_path / "killed"
    saves = list[str]()
    save = CheckpointKeeper.save_inside_epoch

    def counted(self: CheckpointKeeper, parts: Any) -> None:
        save(self, parts)
        saves.append(threading.current_thread().name)

    monkeypatch.setattr(CheckpointKeeper, "save_inside_epoch", counted)
    # Where nothing is to be saved, what is to be sent tells that it was looked at.
    seen = list[int]()
    look = interruption.Interruption._save_beside
    monkeypatch.setattr(
        interruption.Interruption, "_save_beside", lambda self, parts: (look(self, parts), seen.append(1))
    )
    die_in(5, config, folder, lambda: bool(seen), monkeypatch)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["00000004"]
    assert len(saves) == every - 1
    assert threading.main_thread().name not in saves
    again = train(config, folder)
    assert [(one.epoch, one.digest) for one in again if one.finished] == [
        (one.epoch, one.digest) for one in straight if one.finished
    ]


@pytest.mark.usefixtures("_soon")
def test_what_cannot_be_saved_beside_a_step_is_said_and_tried_after_it(
    config_of: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread that dies of a full disk without a word."""
    tried, told = list[str](), threading.Event()
    save = CheckpointKeeper.save_inside_epoch

    def full_at_first(self: CheckpointKeeper, parts: Any) -> None:
        tried.append(threading.current_thread().name)
        if len(tried) == 1:
            raise StorageError("the disk is full")
        save(self, parts)

    def long() -> None:
        told.set()
        wait_for(lambda: tried)

    monkeypatch.setattr(CheckpointKeeper, "save_inside_epoch", full_at_first)
    inside(2, long, monkeypatch)
    with caplog.at_level(logging.WARNING), pytest.raises(TrialInterruptedError, match="after step 2"):
        list(run_trial(config_of("pmd", **SETTINGS), tmp_path, World.alone(), None, told.is_set))
    assert tried[1:] == [threading.main_thread().name]
    assert "the disk is full" in caplog.text
    assert written(tmp_path, 2)()


def test_short_step_is_waited_for(config_of: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two checkpoints for every end of a trial, the second of them a moment after the first."""
    threads, told = list[str](), threading.Event()
    save = CheckpointKeeper.save_inside_epoch

    def counted(self: CheckpointKeeper, parts: Any) -> None:
        threads.append(threading.current_thread().name)
        save(self, parts)

    def telling() -> None:
        told.set()
        time.sleep(0.1)

    monkeypatch.setattr(interruption, "LONG_SECONDS", SECONDS)
    monkeypatch.setattr(interruption, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(CheckpointKeeper, "save_inside_epoch", counted)
    inside(2, telling, monkeypatch)
    with pytest.raises(TrialInterruptedError, match="after step 2"):
        list(run_trial(config_of("pmd", **SETTINGS), tmp_path, World.alone(), None, told.is_set))
    assert threads == [threading.main_thread().name]


def test_nobody_saves_what_is_just_changing() -> None:
    """A copy of which one half is from before, and the other from after."""
    standstill, order = Standstill(), list[str]()
    asked = threading.Event()

    def save() -> None:
        asked.set()
        with standstill.held() as still:
            order.append(f"saved {still}")

    saver = threading.Thread(target=save)
    with standstill.lasting():
        with standstill.busy():
            saver.start()
            assert asked.wait(SECONDS)
            saver.join(0.2)
            order.append("changed")
        saver.join(SECONDS)
    assert order == ["changed", "saved True"]


@pytest.mark.usefixtures("_soon")
def test_terms_are_not_copied_while_they_look_at_a_step(
    config_of: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a term remembers, saved in the middle of being written."""
    told, seen = threading.Event(), list[bool]()
    value = ContrastiveTerm.value
    monkeypatch.setattr(interruption.Interruption, "_save_beside", lambda *_: seen.append(True))

    def slow(self: ContrastiveTerm, step: Any) -> Any:
        told.set()
        time.sleep(0.2)
        assert not seen
        return value(self, step)

    monkeypatch.setattr(ContrastiveTerm, "value", slow)
    with pytest.raises(TrialInterruptedError):
        list(run_trial(config_of("pmd", **SETTINGS), tmp_path, World.alone(), None, told.is_set))


def test_nothing_changes_while_it_is_held() -> None:
    """Weights that change under the hands of whoever saves them."""
    standstill, order = Standstill(), list[str]()
    with standstill.held() as still:
        assert not still
    assert standstill.seconds() == 0.0
    begun, saving = threading.Event(), threading.Event()

    def step() -> None:
        with standstill.lasting():
            begun.set()
            assert saving.wait(SECONDS)
        order.append("changes")

    worker = threading.Thread(target=step)
    worker.start()
    assert begun.wait(SECONDS)
    with standstill.held() as still:
        assert still
        assert standstill.seconds() > 0.0
        saving.set()
        worker.join(0.2)
        order.append("saved")
    worker.join(SECONDS)
    assert order == ["saved", "changes"]
    assert standstill.seconds() == 0.0
