"""What is kept of a teacher that teaches no more: removed by the last who leaves it, never from under somebody's feet."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill import flocks
from raydistill.data.masking import fixed_view
from raydistill.data.texts import Texts
from raydistill.errors import StorageError
from raydistill.models.biencoder import BiEncoder
from raydistill.models.features import Needs
from raydistill.teachers.cache import CachedTeacher, KeptView
from raydistill.teachers.shards import KeptTeachers, claimed
from raydistill.teachers.views import LiveTeacher

FIRST, SECOND, THIRD = (letter * 64 for letter in "abc")
MASK = 4


def keep(folder: Path) -> None:
    """Outputs, as far as removing is concerned."""
    (folder / "view").mkdir(parents=True, exist_ok=True)
    (folder / "view" / "query-00000.arrow").write_text("outputs")


def folders(root: Path) -> list[str]:
    return sorted(path.name[0] for path in root.iterdir() if path.is_dir())


def test_last_who_leaves_a_teacher_removes_its_outputs(tmp_path: Path) -> None:
    """A disk that every announced teacher fills with gigabytes more; or outputs that are removed while another trial learns from them."""
    one, other = KeptTeachers(tmp_path), KeptTeachers(tmp_path)
    for trial in (one, other):
        keep(trial.folder(FIRST))
    keep(one.folder(SECOND))
    assert folders(tmp_path) == ["a", "b"]
    assert one.folder(SECOND) == tmp_path / SECOND[:16]
    keep(other.folder(SECOND))
    assert folders(tmp_path) == ["b"]
    # What a trial that ended has left is removed by whoever turns to another teacher next.
    one.close()
    keep(other.folder(THIRD))
    assert folders(tmp_path) == ["c"]


def test_trial_that_begins_or_ends_removes_nothing(tmp_path: Path) -> None:
    """The teacher of a whole grade, computed anew for every trial of it, or for every trial of another lineage."""
    one = KeptTeachers(tmp_path)
    keep(one.folder(FIRST))
    one.close()
    one.close()
    other = KeptTeachers(tmp_path)
    keep(other.folder(SECOND))
    other.folder(SECOND)
    other.close()
    assert folders(tmp_path) == ["a", "b"]


def test_teachers_that_teach_together_are_claimed_together(tmp_path: Path) -> None:
    """The outputs of one of several teachers, removed by the trial that reads them."""
    one, other = KeptTeachers(tmp_path), KeptTeachers(tmp_path)
    for folder in one.folders([FIRST, SECOND]):
        keep(folder)
    keep(other.folder(THIRD))
    assert one.folders([THIRD, SECOND]) == [tmp_path / THIRD[:16], tmp_path / SECOND[:16]]
    assert folders(tmp_path) == ["b", "c"]
    keep(other.folder(FIRST))
    assert folders(tmp_path) == ["a", "b", "c"]
    one.close()
    other.folder(SECOND)
    assert folders(tmp_path) == ["b"]


def _learn(root: str, told: Any) -> None:
    kept = KeptTeachers(Path(root))
    keep(kept.folder(FIRST))
    told.set()
    time.sleep(600)


def test_claim_dies_with_its_process(tmp_path: Path) -> None:
    """Outputs of a trial that was killed, which nobody may remove ever after."""
    context = multiprocessing.get_context("spawn")
    told = context.Event()
    learner = context.Process(target=_learn, args=(str(tmp_path), told))
    learner.start()
    try:
        assert told.wait(200)
        one = KeptTeachers(tmp_path)
        one.folder(SECOND), one.folder(THIRD)
        assert folders(tmp_path) == ["a"]
    finally:
        learner.kill()
        learner.join()
    one.folder(SECOND)
    assert folders(tmp_path) == []


def test_learner_whose_files_are_gone_reads_on_and_has_them_computed_again(
    model: BiEncoder, texts: tuple[Texts, Texts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial on a file system whose locks others do not see, which dies, or learns from nothing, when they remove what it reads."""

    def seen(some: Texts, epoch: int) -> Texts:
        return fixed_view(some, 0.4, MASK, epoch % 2).texts

    asked: list[int] = []
    encode = LiveTeacher.encode

    def counted(self: LiveTeacher, some: Texts, tower: Any, needs: Needs, *before_part: Any) -> Any:
        asked.append(len(some))
        return encode(self, some, tower, needs, *before_part)

    live, folder = LiveTeacher(model), tmp_path / "teacher"
    view = KeptView(seen, lambda epoch: folder / str(epoch % 2), lambda epoch: epoch % 2)
    teacher = CachedTeacher(live, lambda: texts, [view], MASK)
    for epoch in (1, 0):
        teacher.at_epoch(epoch)
    shutil.rmtree(folder)
    monkeypatch.setattr(LiveTeacher, "encode", counted)
    for epoch, times in ((0, 0), (1, 2), (0, 2)):
        asked.clear()
        teacher.at_epoch(epoch)
        assert len(asked) == times
        found = teacher.encode(seen(texts[0], epoch), "query", Needs())
        assert len(asked) == times
        expected = encode(live, seen(texts[0], epoch), "query", Needs())
        torch.testing.assert_close(found.vectors, expected.vectors, atol=1e-6, rtol=0)


def test_folder_that_cannot_be_claimed_is_told(tmp_path: Path) -> None:
    """A traceback, where the way out is to remember no teacher."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="remember_teacher"):
        KeptTeachers(tmp_path / "file").folder(FIRST)


def test_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trials would write one shard, or one remove what the other reads."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(flocks.fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="cannot be locked"):
        KeptTeachers(tmp_path).folder(FIRST)
    with pytest.raises(StorageError, match="cannot be locked"), claimed(tmp_path / "shard", wait=False):
        pass
