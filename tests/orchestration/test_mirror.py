"""A trial's checkpoints here and where its run lies."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import pytest
from pyarrow import fs

from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.errors import StorageError, TrialInterruptedError
from raydistill.orchestration import courier as courier_module
from raydistill.orchestration import patience
from raydistill.orchestration.courier import Courier
from raydistill.orchestration.depot import Depot, announced_folder
from raydistill.orchestration.ladder import Ladder
from raydistill.orchestration.mirror import TrialMirror
from raydistill.orchestration.remote import RemoteFolder
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.shelf import clear_shelves
from raydistill.planning.rules import Rules


@pytest.fixture
def machines(tmp_path: Path) -> Callable[[str], TrialMirror]:
    """A mirror of one trial on a machine of a given name."""
    filesystem = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())

    def on(name: str) -> TrialMirror:
        (tmp_path / name).mkdir(exist_ok=True)
        mirror = TrialMirror(tmp_path / name, RemoteFolder(filesystem, "there/trial"))
        mirror.send_late()
        mirror.fetch()
        return mirror

    return on


def save(mirror: TrialMirror, *names: str) -> None:
    for name in names:
        folder = mirror.local / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "weights").write_text(name)
        (folder / "manifest.json").write_text(f"manifest of {name}")


def drop(mirror: TrialMirror, name: str) -> None:
    shutil.rmtree(mirror.local / "checkpoints" / name)


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("checkpoints/[0-9]*/manifest.json"))


def test_trial_goes_on_where_another_machine_left_it(machines: Callable[[str], TrialMirror], tmp_path: Path) -> None:
    """It would start afresh; or the checkpoints it removed would be kept and paid for ever."""
    first = machines("first")
    save(first, "00000001", "00000002")
    first.send()
    drop(first, "00000001")
    save(first, "00000003")
    first.send()
    second = machines("second")
    assert checkpoints(tmp_path / "second") == checkpoints(tmp_path / "there/trial") == ["00000002", "00000003"]
    assert (tmp_path / "second/checkpoints/00000003/weights").read_text() == "00000003"
    drop(second, "00000002")
    save(second, "00000004")
    second.send()
    machines("first")
    assert checkpoints(tmp_path / "first") == ["00000003", "00000004"], "what was removed elsewhere is removed here"


def test_checkpoint_that_was_saved_but_not_sent_is_sent_late(
    machines: Callable[[str], TrialMirror], tmp_path: Path
) -> None:
    """A driver that is killed between saving and sending would lose an epoch, although the machine still has it."""
    first = machines("first")
    save(first, "00000001")
    first.send()
    save(first, "00000002")
    machines("first")
    assert checkpoints(tmp_path / "there/trial") == ["00000001", "00000002"]


def test_process_that_was_given_up_removes_nothing_of_its_successor(
    machines: Callable[[str], TrialMirror], tmp_path: Path
) -> None:
    """A machine that was cut off and comes back would remove the checkpoints that were made without it."""
    first = machines("first")
    save(first, "00000001")
    first.send()
    second = machines("second")
    save(second, "00000002")
    second.send()
    first.send()
    assert checkpoints(tmp_path / "there/trial") == ["00000001", "00000002"]


def test_transfer_that_was_cut_short_counts_as_none(machines: Callable[[str], TrialMirror], tmp_path: Path) -> None:
    """Files without their manifest would be taken for a damaged checkpoint, or for a whole one."""
    first = machines("first")
    save(first, "00000001")
    first.send()
    (tmp_path / "there/trial/checkpoints/00000002").mkdir()
    (tmp_path / "there/trial/checkpoints/00000002/weights").write_text("half")
    machines("second")
    assert checkpoints(tmp_path / "second") == ["00000001"]
    (tmp_path / "second/checkpoints/.fetched-00000001").mkdir()
    machines("second")
    assert not list((tmp_path / "second/checkpoints").glob(".fetched-*"))


def test_checkpoint_that_is_written_again_is_sent_again(machines: Callable[[str], TrialMirror], tmp_path: Path) -> None:
    """A validation that was interrupted leaves a checkpoint of the name that the validated one gets: other bytes than were reported would be promoted."""
    first = machines("first")
    save(first, "00000001")
    first.send()
    second = machines("second")
    (second.local / "checkpoints/00000001/manifest.json").write_text("manifest of the validated one")
    (second.local / "checkpoints/00000001/weights").write_text("validated")
    second.send()
    assert (tmp_path / "there/trial/checkpoints/00000001/weights").read_text() == "validated"
    assert (tmp_path / "there/trial/checkpoints/00000001/manifest.json").read_text() == "manifest of the validated one"


def test_machine_forgets_a_trial_that_has_ended(machines: Callable[[str], TrialMirror], tmp_path: Path) -> None:
    """Every trial's checkpoints would stay on the disk of its machine for ever; or leave it unsent, or leave the run with it."""
    first = machines("first")
    given_up = machines("first")
    save(first, "00000001", "00000002")
    given_up.send()
    first.send()
    save(first, "00000003")
    first.forget()
    assert checkpoints(tmp_path / "first") == ["00000001", "00000002", "00000003"], "what was not sent stays"
    first.send()
    first.forget()
    assert not list((tmp_path / "first").glob("**/weights"))
    for mirror in (first, given_up):
        mirror.send()
        assert checkpoints(tmp_path / "there/trial") == ["00000001", "00000002", "00000003"]
    first.forget()
    machines("first")
    assert checkpoints(tmp_path / "first") == ["00000001", "00000002", "00000003"], "whoever needs them fetches them"


@pytest.mark.parametrize("end", ["finished", "stopped", "interrupted", "paused", "worker"])
def test_checkpoints_of_a_trial_stay_until_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial_config: Callable[..., TrialConfig], end: str
) -> None:
    """Disks of workers would fill in a campaign of days; or a trial that is about to go on here fetch its checkpoints again; or a worker remove what the first one sends."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "there").mkdir()
    filesystem = fs.SubTreeFileSystem(str(tmp_path / "there"), fs.LocalFileSystem())
    store = RunStore.at("run", filesystem).claimed()
    directory = store.root / "grades/1/trials/x"

    def run_trial(*told: Any) -> Iterator[fakes.Report]:
        for epoch in (1, 2):
            folder = directory / f"checkpoints/{epoch:08d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "manifest.json").write_text(f"manifest {epoch}")
            if epoch == 2 and end == "interrupted":
                raise TrialInterruptedError("told to end")
            if epoch == 2 and end == "paused":
                return
            place, last = (None, None) if end == "worker" else (str(folder), "d"), epoch == 2
            yield fakes.Report(epoch, 2, epoch, {}, *place, last)

    courier = Courier(replace(fakes.workshop(), run_trial=run_trial), Depot(filesystem), store)
    config = trial_config()
    data = config.data.model_copy(update={"path": Path(config.data.path).as_uri()})
    told: Any = config.model_copy(update={"data": data}), directory, fakes.Ranks(int(end == "worker"))
    if end == "worker":
        # What the first one has sent is here, too.
        for epoch in (1, 2):
            there = tmp_path / f"there/run/grades/1/trials/x/checkpoints/{epoch:08d}"
            there.mkdir(parents=True)
            (there / "manifest.json").write_text(f"manifest {epoch}")
    reports = courier.run_trial(*told, lambda epoch: None, lambda: False)
    next(reports)
    if end == "stopped":
        reports.close()  # type: ignore[attr-defined]
    elif end == "interrupted":
        with pytest.raises(TrialInterruptedError):
            next(reports)
    else:
        list(reports)
    wanted = ["00000001"] if end == "stopped" else ["00000001", "00000002"]
    assert checkpoints(tmp_path / "there/run/grades/1/trials/x") == wanted
    gone = end in ("finished", "stopped")
    assert checkpoints(directory) == ([] if gone else ["00000001", "00000002"])


def test_trial_that_was_told_to_end_does_not_wait_minutes_for_a_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial_config: Callable[..., TrialConfig]
) -> None:
    """It would be killed before it has said that it has saved."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    moments, told_to_end = [0.0], list[bool]()
    monkeypatch.setattr(patience.time, "monotonic", lambda: moments[-1])
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: moments.append(moments[-1] + seconds))

    def fail() -> None:
        raise OSError("AWS Error NETWORK_CONNECTION")

    def run_trial(*_: Any) -> Iterator[fakes.Report]:
        for told in (False, True):
            began = moments[-1]
            told_to_end[:] = [True] * told
            with pytest.raises(OSError, match="NETWORK"):
                patience.patiently(fail)
            assert (moments[-1] - began < 10) == told
        yield from ()

    filesystem = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    courier = Courier(
        replace(fakes.workshop(), run_trial=run_trial), Depot(filesystem), RunStore.at(tmp_path / "local")
    )
    config = trial_config()
    data = config.data.model_copy(update={"path": Path(config.data.path).as_uri()})
    told: Any = config.model_copy(update={"data": data}), tmp_path, fakes.Ranks(), lambda epoch: None
    assert list(courier.run_trial(*told, lambda: bool(told_to_end))) == []
    assert moments[-1] > patience.HURRY_SECONDS


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("when", ["first", "sent", "reported", "end"])
def test_storage_that_fails_while_a_trial_ends_ends_no_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial_config: Callable[..., TrialConfig], told: bool, when: str
) -> None:
    """One machine is told to end in a minute without storage, and all other trials end with it; or an error of a trial that nobody told is taken for a pause."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "there").mkdir()
    filesystem = fs.SubTreeFileSystem(str(tmp_path / "there"), fs.LocalFileSystem())
    store = RunStore.at("run", filesystem).claimed()
    directory, fails = store.root / "grades/1/trials/x", [when == "first"]

    def attempt(self: Any) -> None:
        if fails[-1]:
            raise StorageError("no answer")

    for name in ("send", "fetch", "send_late"):
        monkeypatch.setattr(courier_module.TrialMirror, name, attempt)

    def run_trial(config: Any, folder: Path, world: Any, teacher: Any, asked: Any, bring: Any, saved: Any) -> Any:
        fails.append(True)
        if when == "sent":
            saved()
        if when == "reported":
            yield fakes.Report(1, 2, 1, {}, str(directory / "checkpoints/00000001"), "d", False)
        raise TrialInterruptedError("told to end") if told else ValueError("another")
        yield

    config = trial_config()
    data = config.data.model_copy(update={"path": Path(config.data.path).as_uri()})
    saved: list[bool] = []
    courier = Courier(replace(fakes.workshop(), run_trial=run_trial), Depot(filesystem), store)
    with pytest.raises(TrialInterruptedError if told else StorageError):
        list(
            courier.run_trial(
                config.model_copy(update={"data": data}),
                directory,
                fakes.Ranks(),
                lambda epoch: None,
                lambda: told,
                saved=lambda: saved.append(True),
            )
        )
    assert not saved, "what has not arrived is not safe"


def test_checkpoint_lies_elsewhere_before_it_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial_config: Callable[..., TrialConfig]
) -> None:
    """The machine dies after the report: the ledger would name a checkpoint that nobody has."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "there").mkdir()
    filesystem = fs.SubTreeFileSystem(str(tmp_path / "there"), fs.LocalFileSystem())
    store = RunStore.at("run", filesystem).claimed()
    assert RunStore.at("run", filesystem).claimed().root == store.root, "all machines name it alike"
    courier = Courier(fakes.workshop(), Depot(filesystem), store)
    config = trial_config(training={"epochs": 3})
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"path": Path(config.data.path).as_uri()})}
    )
    seen: list[str] = []

    def reports(teacher: TeacherReference | None = None) -> Iterator[fakes.Report]:
        directory = store.root / "grades" / "1" / "trials" / "x"
        directory.mkdir(parents=True, exist_ok=True)
        changed = config.model_copy(update={"teacher": teacher})
        yield from courier.run_trial(changed, directory, fakes.Ranks(), lambda epoch: None, lambda: False)  # type: ignore[misc]

    for report in reports():
        assert report.checkpoint == f"run/grades/1/trials/x/checkpoints/{report.epoch:08d}"
        assert courier.verify_checkpoint(report.checkpoint) == report.digest
        seen.append(report.digest or "")
    assert len(seen) == 3
    shutil.rmtree(tmp_path / "cache")
    [last] = reports()
    assert (last.epoch, last.digest) == (3, seen[-1]), "a finished trial is not trained again on another machine"
    teacher = TeacherReference(path=f"{last.checkpoint}", digest=seen[-1])
    shutil.rmtree(store.root / "grades")
    shutil.rmtree(tmp_path / "there" / "run" / "grades" / "1" / "trials" / "x" / "checkpoints" / "00000002")
    assert courier.verify_checkpoint(teacher.path) == teacher.digest


def test_checkpoint_of_a_trial_that_has_to_go_on_lies_elsewhere_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial_config: Callable[..., TrialConfig]
) -> None:
    """A validation of two workers, on whose machine the first has saved after SIGTERM: the machine is gone before it ends, and the epoch with it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "there").mkdir()
    filesystem = fs.SubTreeFileSystem(str(tmp_path / "there"), fs.LocalFileSystem())
    store = RunStore.at("run", filesystem).claimed()
    directory = store.root / "grades/1/trials/x"
    directory.mkdir(parents=True)
    there, heard = list[list[str]](), list[list[str]]()

    def lying_there() -> list[str]:
        return checkpoints(tmp_path / "there/run/grades/1/trials/x")

    def run_trial(*told: Any) -> Iterator[fakes.Report]:
        saved = told[-1]
        folder = directory / "checkpoints/00000004"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("manifest")
        saved()
        there.append(lying_there())
        yield from ()

    courier = Courier(replace(fakes.workshop(), run_trial=run_trial), Depot(filesystem), store)
    config = trial_config()
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"path": Path(config.data.path).as_uri()})}
    )
    told: Any = config, directory, fakes.Ranks(), lambda epoch: None, lambda: False
    assert list(courier.run_trial(*told, saved=lambda: heard.append(lying_there()))) == []
    assert there == [["00000004"]]
    assert heard == there, "who hears that all is safe before it is may be told a lie"


def test_announced_teacher_is_kept_where_the_run_lies(tmp_path: Path) -> None:
    """Students on other machines would be sent to a checkpoint that its trial has removed in the meantime."""
    filesystem = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    store = RunStore.at("run", filesystem)
    rules = Rules("pipelined", 0.0, False, 1, 2, epochs=(3, 3), sizes=(12, 6), settle_epochs=1)
    ladder, key = Ladder(store, rules), ("main", 0, 0)
    ladder.start("f", ["main"], ["0-teacher", "1-layers6"])
    ladder.begin(key, "i", {})
    place = "run/grades/0-teacher/trials/i/checkpoints/00000001"
    source = tmp_path / place
    source.mkdir(parents=True)
    (source / "weights").write_text("w")
    (source / "manifest.json").write_text("m")
    ladder.report(key, 1, {"valid/both/mrr": 0.2}, place, "d" * 64, False)
    shutil.rmtree(source)
    ladder.begin(("main", 1, 0), "k", {})
    for one in (ladder, Ladder(store, rules)):
        teacher = one.teach(("main", 1, 0), 0)
        assert teacher is not None
        assert teacher.path == f"run/grades/0-teacher/teachers/{'d' * 16}"
        assert (tmp_path / teacher.path / "weights").read_text() == "w"
    clear_shelves(store, ["0-teacher", "1-layers6"])
    assert not (tmp_path / "run/grades/0-teacher/teachers").exists()


def test_announced_teacher_leaves_the_machine_with_the_last_that_learns_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial_config: Callable[..., TrialConfig]
) -> None:
    """Every teacher that was ever announced would stay in the cache of every machine; or one be removed while a trial beside this one reads it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "there").mkdir()
    filesystem = fs.SubTreeFileSystem(str(tmp_path / "there"), fs.LocalFileSystem())
    store = RunStore.at("run", filesystem).claimed()
    config = trial_config(training={"epochs": 4})
    data = config.data.model_copy(update={"path": Path(config.data.path).as_uri()})
    config = config.model_copy(update={"data": data, "settle_epochs": 1})
    teachers = [teacher(tmp_path / "there", f"run/grades/0/teachers/{name}") for name in ("first", "second")]
    teachers += [teacher(tmp_path / "there", "run/grades/0/trials/t/checkpoints/00000009")]
    order = [teachers[0], teachers[0], teachers[1], teachers[2]]

    def trial(name: str) -> Iterator[list[int]]:
        """What the machine keeps after each epoch, as positions in `teachers`."""
        directory = store.root / "grades" / "1" / "trials" / name
        directory.mkdir(parents=True)
        courier = Courier(fakes.workshop(), Depot(filesystem), store)
        for _ in courier.run_trial(config, directory, fakes.Ranks(), order.__getitem__, lambda: False):
            folders = {path.name for path in announced_folder().iterdir() if path.is_dir()}
            yield [number for number, one in enumerate(teachers) if one.digest[:16] in folders]

    one, other = trial("x"), trial("y")
    assert next(one) == next(other) == [0]
    assert next(one) == [0]
    assert next(one) == [0, 1], "the other one still learns from it"
    assert next(other) == [0, 1]
    assert next(other) == [1]
    assert next(one) == [1]
    assert next(other) == []
    assert Depot(filesystem).checkpoint(teachers[2].path, fakes.verify).parent.name == "depot"


def teacher(root: Path, place: str) -> TeacherReference:
    weights = place.encode()
    (root / place).mkdir(parents=True)
    (root / place / "weights").write_bytes(weights)
    manifest = json.dumps({"sha256": hashlib.sha256(weights).hexdigest()})
    (root / place / "manifest.json").write_text(manifest)
    return TeacherReference(path=place, digest=hashlib.sha256(manifest.encode()).hexdigest())
