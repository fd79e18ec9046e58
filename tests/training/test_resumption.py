"""Which checkpoint several workers go on from, with machines that do not see the same."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from raydistill.errors import CheckpointError, RayDistillError, StorageError
from raydistill.training import resumption
from raydistill.training.keeping import CheckpointKeeper
from raydistill.training.parts import TrialParts
from raydistill.training.progress import Progress
from raydistill.training.resumption import agreed_newest, epoch_of


class Meeting:
    """Workers that are threads: each says something, and hears what all have said."""

    def __init__(self, size: int) -> None:
        self.said: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=20)

    def hear(self, rank: int, word: Any) -> list[Any]:
        self.said[rank] = word
        self.barrier.wait()
        heard = list(self.said)
        self.barrier.wait()
        return heard


class FakeWorld:
    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size, self.meeting = rank, len(meeting.said), meeting

    def agree(self, text: str) -> str:
        return str(self.meeting.hear(self.rank, text)[0])

    def anyone(self, says: bool) -> bool:
        return any(self.meeting.hear(self.rank, says))


@pytest.fixture
def machines(parts_of: Callable[..., TrialParts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What each of two machines sees: checkpoints of two epochs, 00000009 and 00000018."""
    monkeypatch.setattr(resumption, "SEEN_SECONDS", 0.05)
    monkeypatch.setattr(resumption, "LOOK_SECONDS", 0.01)
    parts = parts_of("none", training={"batch_size": 2})
    keeper = CheckpointKeeper(tmp_path / "first", keep=2, writes=True)
    for epoch in (1, 2):
        parts.trainer.progress = Progress(epoch)
        keeper.save_epoch(parts, {"valid/both/mrr": 0.5})
    return [keeper.directory, Path(shutil.copytree(keeper.directory, tmp_path / "second"))]


def found(machines: list[Path]) -> list[Any]:
    """What each worker goes on from, or the error it ends with."""
    meeting = Meeting(len(machines))

    def look(rank: int) -> Any:
        try:
            path = agreed_newest(machines[rank], FakeWorld(rank, meeting))  # type: ignore[arg-type]
        except (RayDistillError, OSError, RuntimeError) as problem:
            return problem
        return path and path.relative_to(machines[rank]).name

    with ThreadPoolExecutor(len(machines)) as pool:
        return list(pool.map(look, range(len(machines))))


def test_what_all_see_is_gone_on_from(machines: list[Path]) -> None:
    """One that is older than it need be."""
    assert found(machines) == ["00000018"] * 2
    assert epoch_of(machines[0] / "00000018") == 2
    assert epoch_of(None) == 0


def test_what_one_does_not_see_is_passed_over_by_all(machines: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    """Two workers with different weights, at different steps, whose exchanges do not fit each other."""
    shutil.rmtree(machines[1] / "00000018")
    assert found(machines) == ["00000009"] * 2
    assert "not all workers see" in caplog.text
    shutil.rmtree(machines[1] / "00000009")
    assert [type(one) for one in found(machines)] == [StorageError] * 2


def test_older_ones_that_are_damaged_do_not_make_the_newest_so(machines: list[Path]) -> None:
    """Advice to delete a trial whose newest checkpoint is sound, and only not seen by all."""
    shutil.rmtree(machines[1] / "00000018")
    (machines[0] / "00000009" / "raydistill.json").unlink()
    assert [type(one) for one in found(machines)] == [StorageError] * 2


def test_the_first_workers_own_error_is_told_as_such(machines: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that does not answer, which the others take for damage, and end the campaign for."""

    def stale(directory: Path, before: str | None) -> str:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(resumption, "_choice", stale)
    first, second = found(machines)
    assert (type(first), type(second)) == (OSError, RuntimeError)


def test_the_first_worker_chooses(machines: list[Path]) -> None:
    """A checkpoint that another machine has kept of a trial which went on elsewhere."""
    shutil.rmtree(machines[0] / "00000018")
    assert found(machines) == ["00000009"] * 2


def test_what_is_seen_late_is_waited_for(machines: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch's work that is lost because a file system tells of it half a minute later."""
    hidden = (machines[1] / "00000018").rename(machines[1].parent / "hidden")
    monkeypatch.setattr(resumption, "SEEN_SECONDS", 20.0)
    monkeypatch.setattr(resumption.time, "sleep", lambda _: hidden.exists() and hidden.rename(machines[1] / "00000018"))
    assert found(machines) == ["00000018"] * 2


def test_all_workers_are_told_that_all_checkpoints_are_damaged(machines: list[Path]) -> None:
    """A worker that waits for another one's word until somebody ends it."""
    for name in ("00000009", "00000018"):
        (machines[0] / name / "raydistill.json").unlink()
    problems = found(machines)
    assert [type(one) for one in problems] == [CheckpointError] * 2
    assert "no sound checkpoint" in str(problems[1])


def test_a_new_trial_begins_everywhere(tmp_path: Path) -> None:
    """A first start that fails for want of a folder."""
    assert found([tmp_path / "first", tmp_path / "second"]) == [None] * 2
