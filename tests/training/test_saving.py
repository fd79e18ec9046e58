from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from raydistill.config.trial import TrialConfig
from raydistill.errors import CheckpointError, StorageError
from raydistill.training import saving
from raydistill.training.checkpoint import TrainingState, load_model, newest_good
from raydistill.training.gather import World
from raydistill.training.manifest import verify_checkpoint, verify_manifest
from raydistill.training.parts import TrialParts
from raydistill.training.saving import save_checkpoint, save_folder
from raydistill.training.trial import run_trial

Config = Callable[..., TrialConfig]


@pytest.fixture(scope="module")
def parts(parts_of: Callable[..., TrialParts]) -> TrialParts:
    """A student that is saved again and again."""
    return parts_of("none")


def save(parts: TrialParts, path: Path, **position: Any) -> str:
    state = TrainingState({"exp_avg.x": torch.arange(3.0)}, {"epoch": 1, **position})
    return save_checkpoint(path, parts.student, parts.tokenizer_folder, parts.record, state)


def test_equal_content_has_an_equal_digest_wherever_and_whenever(parts: TrialParts, tmp_path: Path) -> None:
    """A time stamp, a path or an order of keys in some file: resuming could never be shown to be exact."""
    one = save(parts, tmp_path / "a" / "00000001", x=1, y=2)
    other = save(parts, tmp_path / "b" / "00000009", y=2, x=1)
    assert one == other == verify_checkpoint(tmp_path / "a" / "00000001")
    assert save(parts, tmp_path / "c" / "00000001", x=1, y=3) != one


def test_saving_again_replaces_what_was_there(parts: TrialParts, tmp_path: Path) -> None:
    """A damaged checkpoint that is in the way of the sound one, or files of both."""
    path = tmp_path / "00000001"
    save(parts, path)
    (path / "raydistill.json").write_text("damaged")
    (path / "stray").write_text("x")
    assert save(parts, path) == verify_checkpoint(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["00000001"]


def test_what_an_interrupted_save_left_is_not_mixed_in(parts: TrialParts, tmp_path: Path) -> None:
    """The entity tower of one step beside the query tower of another."""
    aside = tmp_path / ".aside-00000001"
    (aside / "query_encoder").mkdir(parents=True)
    (aside / "query_encoder" / "old.bin").write_text("x")
    path = tmp_path / "00000001"
    assert save(parts, path) == verify_checkpoint(path)
    assert not (path / "query_encoder" / "old.bin").exists()


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_for_safetensors(*_: object, **__: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


FAILURES: dict[str, tuple[str, Callable[..., None]]] = {
    "weights": ("raydistill.training.saving.save_file", full_for_safetensors),
    "weights, by the system": ("raydistill.training.saving.save_file", full),
    "tokenizer": ("raydistill.training.saving.shutil.copyfile", full),
    "record": ("raydistill.training.saving.write_json", full),
    "manifest": ("raydistill.training.saving.write_manifest", full),
    "rename": ("raydistill.training.saving.os.replace", full),
}


@pytest.mark.parametrize("name", FAILURES)
def test_full_disk_is_named_and_earlier_checkpoints_are_whole(
    parts: TrialParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Half a checkpoint under the final name, an earlier one given up for it, or a traceback from inside a library."""
    first = tmp_path / "00000001"
    digest = save(parts, first)
    with monkeypatch.context() as patch:
        patch.setattr(*FAILURES[name])
        with pytest.raises(StorageError, match=r"00000002 cannot be written.*No space left") as raised:
            save(parts, tmp_path / "00000002")
    assert "--resume" in raised.value.remedy
    assert not (tmp_path / "00000002").exists()
    assert verify_checkpoint(first) == digest
    assert newest_good(tmp_path) == first
    assert not list(tmp_path.glob(".*"))
    assert save(parts, tmp_path / "00000002") == verify_checkpoint(tmp_path / "00000002")


@pytest.mark.parametrize("in_trial", [False, True])
@pytest.mark.parametrize("interrupted", ["write_manifest", "os.replace"])
def test_interrupted_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_trial: bool, interrupted: str
) -> None:
    """Ctrl-C between two renames, and the name is gone; or at any time, and half a model stays beside it, hidden."""
    path = tmp_path / "out"
    digest = save_folder(path, lambda aside: write(aside, "before"), in_trial=in_trial)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"raydistill.training.saving.{interrupted}", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_folder(path, lambda aside: write(aside, "after"), in_trial=in_trial)
    assert verify_manifest(path) == digest
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def write(folder: Path, content: str) -> None:
    (folder / "content").write_text(content, encoding="utf-8")


def test_two_that_write_to_one_name_outside_a_trial_do_not_mix(tmp_path: Path) -> None:
    """With one place beside the name for both, the second deletes what the first is writing, and gives the name to half of it."""
    path, inner = tmp_path / "out", []

    def slowly(aside: Path) -> None:
        write(aside, "slow")
        inner.append(save_folder(path, lambda other: write(other, "quick"), in_trial=False))
        assert (path / "content").read_text(encoding="utf-8") == "quick"
        assert [one.name for one in aside.iterdir()] == ["content"]

    digest = save_folder(path, slowly, in_trial=False)
    assert [digest] != inner
    assert verify_manifest(path) == digest
    assert (path / "content").read_text(encoding="utf-8") == "slow"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_name_that_another_one_has_taken_meanwhile_stays_its(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brought back over the other one's, what had stepped aside would undo a finished export."""
    path, replace = tmp_path / "out", os.replace
    save_folder(path, lambda aside: write(aside, "before"), in_trial=False)

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.undo()
        save_folder(path, lambda aside: write(aside, "theirs"), in_trial=False)
        replace(source, target)

    monkeypatch.setattr(os, "replace", overtaken)
    with pytest.raises(StorageError, match="out cannot be written"):
        save_folder(path, lambda aside: write(aside, "ours"), in_trial=False)
    assert (path / "content").read_text(encoding="utf-8") == "theirs"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_one_left_goes_when_the_name_is_whole_again(tmp_path: Path) -> None:
    """Killed between two renames, nobody asks for the folder that had stepped aside, and it stays for ever; `[` in a name is no pattern."""
    path = tmp_path / "a[b]"
    old, abandoned = tmp_path / ".a[b].old-x1y2", tmp_path / ".a[b].aside-x1y2"
    for folder in (old, abandoned, tmp_path / ".a[b].aside-now", tmp_path / ".ab.old-x1y2", tmp_path / "notes"):
        folder.mkdir()
    os.utime(abandoned, (1.0, 1.0))
    save_folder(path, lambda aside: write(aside, "x"), in_trial=False)
    assert sorted(one.name for one in tmp_path.iterdir()) == [".a[b].aside-now", ".ab.old-x1y2", "a[b]", "notes"]
    # Others read it: mkdtemp alone would keep it from them.
    assert path.stat().st_mode == (tmp_path / "notes").stat().st_mode


@pytest.mark.parametrize("fails", [False, True])
def test_link_gives_its_name_and_what_it_leads_to_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """A folder that is written again under a link to an earlier one cannot be; or what the link leads to is emptied."""
    (tmp_path / "earlier").mkdir()
    write(tmp_path / "earlier", "before")
    (tmp_path / "out").symlink_to("earlier")
    if fails:
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
        with pytest.raises(StorageError):
            save_folder(tmp_path / "out", lambda aside: write(aside, "after"), in_trial=False)
    else:
        save_folder(tmp_path / "out", lambda aside: write(aside, "after"), in_trial=False)
    assert (tmp_path / "out" / "content").read_text(encoding="utf-8") == ("before" if fails else "after")
    assert (tmp_path / "earlier" / "content").read_text(encoding="utf-8") == "before"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["earlier", "out"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: what a full disk does, done by the system itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_system_that_refuses_to_write_is_a_storage_error(config_of: Config, tmp_path: Path) -> None:
    """The same, with the real errors of the real writers, in a whole trial; which goes on once there is room."""
    config = config_of("none", training={"epochs": 2})
    trial = run_trial(config, tmp_path / "trial", World.alone())
    first = next(trial)
    assert first.checkpoint is not None
    with largest_file(20_000), pytest.raises(StorageError, match="00000006 cannot be written"):
        next(trial)
    assert newest_good(tmp_path / "trial" / "checkpoints") == Path(first.checkpoint)
    resumed = list(run_trial(config, tmp_path / "trial", World.alone()))
    straight = list(run_trial(config, tmp_path / "straight", World.alone()))
    assert [report.epoch for report in resumed] == [1, 2]
    assert resumed[-1].digest == straight[-1].digest
    assert not list((tmp_path / "trial" / "checkpoints").glob(".aside-*"))


def test_errors_that_are_not_the_disks_pass_through(
    parts: TrialParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the program reported as a full disk."""

    def wrong(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(saving, "save_file", wrong)
    with pytest.raises(ZeroDivisionError):
        save(parts, tmp_path / "00000001")


def test_directory_that_is_a_file_is_a_storage_error(parts: TrialParts, tmp_path: Path) -> None:
    """A traceback where a path is simply taken."""
    (tmp_path / "checkpoints").write_text("x")
    with pytest.raises(StorageError):
        save(parts, tmp_path / "checkpoints" / "00000001")


def test_every_file_is_synced_before_the_directory_has_its_name(
    parts: TrialParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut after the rename that finds empty files under a final name."""
    events: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def replaced(source: Any, target: Any) -> None:
        events.append("renamed")
        replace(source, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the system does not say which file a descriptor is")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    save(parts, tmp_path / "00000001")
    files = [path.name for path in (tmp_path / "00000001").rglob("*") if path.is_file()]
    before = events[: events.index("renamed")]
    assert sorted(name for name in before if "." in name) == sorted(files)
    assert before[-1] == "manifest.json"
    assert events[-1] == tmp_path.name


def test_unfinished_directory_is_no_checkpoint(parts: TrialParts, tmp_path: Path) -> None:
    """A copy that was cut off before its manifest came."""
    save(parts, tmp_path / "00000001")
    shutil.copytree(tmp_path / "00000001", tmp_path / "00000002", ignore=shutil.ignore_patterns("manifest.json"))
    with pytest.raises(CheckpointError, match=r"no manifest.json"):
        load_model(tmp_path / "00000002")
    assert newest_good(tmp_path) == tmp_path / "00000001"
