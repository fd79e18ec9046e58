from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydistill.training.checkpoint import newest_good
from raydistill.training.gather import World
from raydistill.training.keeping import CheckpointKeeper
from raydistill.training.manifest import verify_checkpoint
from raydistill.training.parts import TrialParts
from raydistill.training.progress import Progress
from raydistill.training.resumption import agreed_newest


@pytest.fixture
def parts(parts_of: Callable[..., TrialParts]) -> TrialParts:
    """A trial of 18 examples, one per two steps: names are epoch times nine."""
    return parts_of("none", training={"batch_size": 2})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save_epochs(keeper: CheckpointKeeper, parts: TrialParts, scores: list[float], first: int = 1) -> None:
    for epoch, score in enumerate(scores, start=first):
        parts.trainer.progress = Progress(epoch)
        keeper.save_epoch(parts, {"valid/both/mrr": score})


@pytest.mark.parametrize(
    ("keep", "scores", "during", "after"),
    [
        (2, [0.1, 0.5, 0.2, 0.3, 0.4], [2, 4, 5], [2, 5]),
        (1, [0.1, 0.5, 0.2, 0.3, 0.4], [2, 5], [2, 5]),
        (3, [0.5, 0.5, 0.5, 0.5, 0.5], [1, 3, 4, 5], [1, 5]),
        (2, [0.1, 0.2, 0.3, 0.4, 0.5], [4, 5], [5]),
        (9, [0.3, 0.2], [1, 2], [1, 2]),
    ],
)
def test_best_and_newest_are_kept(
    parts: TrialParts, tmp_path: Path, keep: int, scores: list[float], during: list[int], after: list[int]
) -> None:
    """The best epoch removed because it is old, an equal later one kept in its stead, or a disk full of all the others."""
    keeper = CheckpointKeeper(tmp_path, keep=keep, writes=True)
    save_epochs(keeper, parts, scores)
    assert names(tmp_path) == [f"{9 * epoch:08d}" for epoch in during]
    assert keeper.best() == f"{9 * after[0]:08d}"
    keeper.finish(parts)
    assert names(tmp_path) == [f"{9 * epoch:08d}" for epoch in after]
    assert all(verify_checkpoint(path) for path in tmp_path.iterdir())


def test_checkpoints_inside_an_epoch_count_among_the_newest_and_are_never_the_best(
    parts: TrialParts, tmp_path: Path
) -> None:
    """A promotion of half an epoch, or validated checkpoints pushed out by unvalidated ones."""
    keeper = CheckpointKeeper(tmp_path, keep=2, writes=True)
    save_epochs(keeper, parts, [0.5])
    for step in (2, 4, 6):
        parts.trainer.progress = Progress(1, step)
        keeper.save_inside_epoch(parts)
    assert names(tmp_path) == ["00000009", "00000013", "00000015"]
    assert keeper.best() == "00000009"


def test_damaged_later_checkpoints_do_not_push_out_sound_ones(parts: TrialParts, tmp_path: Path) -> None:
    """With one kept, the checkpoint just written would be removed in favour of a damaged one of a later epoch."""
    keeper = CheckpointKeeper(tmp_path, keep=1, writes=True)
    save_epochs(keeper, parts, [0.5, 0.4, 0.3])
    assert names(tmp_path) == ["00000009", "00000027"]
    (tmp_path / "00000027" / "manifest.json").write_text("damaged")
    again = CheckpointKeeper(tmp_path, keep=1, writes=True)
    saved = again.resume(parts, agreed_newest(again.directory, World.alone()))
    assert saved is not None
    assert saved.path == tmp_path / "00000009"
    save_epochs(again, parts, [0.4], first=2)
    assert verify_checkpoint(tmp_path / "00000018")
    save_epochs(again, parts, [0.3], first=3)
    assert names(tmp_path) == ["00000009", "00000027"]
    assert verify_checkpoint(tmp_path / "00000027")


def test_workers_other_than_the_first_write_nothing(parts: TrialParts, tmp_path: Path) -> None:
    """Two workers that write, or remove, the same directory."""
    keeper = CheckpointKeeper(tmp_path / "none", keep=1, writes=False)
    assert keeper.save_epoch(parts, {"valid/both/mrr": 0.5}) is None
    keeper.save_inside_epoch(parts)
    keeper.finish(parts)
    assert not (tmp_path / "none").exists()
    writer = CheckpointKeeper(tmp_path, keep=1, writes=True)
    save_epochs(writer, parts, [0.5])
    (tmp_path / ".aside-00000018").mkdir()
    reader = CheckpointKeeper(tmp_path, keep=1, writes=False)
    assert reader.resume(parts, agreed_newest(reader.directory, World(1, 1))) is not None
    assert names(tmp_path) == [".aside-00000018", "00000009"]


def test_resume_gives_back_the_history_and_cleans_up(parts: TrialParts, tmp_path: Path) -> None:
    """A resumed trial that has forgotten which epoch was its best, or leaves what an interrupted save left."""
    keeper = CheckpointKeeper(tmp_path, keep=1, writes=True)
    save_epochs(keeper, parts, [0.5, 0.4])
    shutil.copytree(tmp_path / "00000018", tmp_path / ".aside-00000027")
    again = CheckpointKeeper(tmp_path, keep=1, writes=True)
    saved = again.resume(parts, agreed_newest(again.directory, World.alone()))
    assert saved is not None
    assert (saved.path.name, saved.metrics, again.best()) == ("00000018", {"valid/both/mrr": 0.4}, "00000009")
    assert saved.digest == verify_checkpoint(saved.path)
    assert (parts.trainer.progress.epoch, parts.trainer.progress.step_in_epoch) == (2, 0)
    assert names(tmp_path) == ["00000009", "00000018"]


def test_new_trial_has_nothing_to_resume(parts: TrialParts, tmp_path: Path) -> None:
    """A first start that fails for want of a directory."""
    assert (
        CheckpointKeeper(tmp_path / "none", keep=1, writes=True).resume(parts, newest_good(tmp_path / "none")) is None
    )
    assert not (tmp_path / "none").exists()


def test_checkpoint_inside_an_epoch_is_no_report(parts: TrialParts, tmp_path: Path) -> None:
    """An epoch reported before it is over."""
    keeper = CheckpointKeeper(tmp_path, keep=2, writes=True)
    parts.trainer.progress = Progress(0, 4, {"loss": 3.0, "steps": 4.0, "seconds": 1.5})
    keeper.save_inside_epoch(parts)
    fresh: dict[str, Any] = {"loss": 3.0, "steps": 4.0}
    parts.trainer.progress = Progress()
    assert CheckpointKeeper(tmp_path, keep=2, writes=True).resume(parts, newest_good(tmp_path)) is None
    assert (parts.trainer.progress.step_in_epoch, parts.trainer.progress.sums) == (4, fresh)
