"""Announced teachers: one that is damaged gives way to another, and one that nobody learns from makes room. Without Ray but for the last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import pytest
from pyarrow import fs

from raydistill.errors import CheckpointError, NonFiniteLossError, TeacherError
from raydistill.orchestration import durable, shelf, telling
from raydistill.orchestration.campaign import Campaign
from raydistill.orchestration.ladder import Ladder
from raydistill.orchestration.ledger import Ledger
from raydistill.orchestration.rundir import LEDGER
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.rules import Rules

A, B, C = ("main", 0, 0), ("main", 1, 0), ("main", 1, 1)
RULES = Rules("pipelined", 0.0, False, 1, 2, epochs=(9, 9), sizes=(12, 6), min_delta=0.0, settle_epochs=1)
WHY = "weights are damaged"


@pytest.fixture(params=["here", "elsewhere"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RunStore:
    """A run on a local disk, and one on another file system."""
    if request.param == "here":
        return RunStore.at(tmp_path / "run")
    return RunStore.at("run", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))


def ladder(store: RunStore) -> Ladder:
    """A teacher and two students of its, begun."""
    one = Ladder(store, RULES)
    one.start("f", ["main"], ["0-teacher", "1-layers6"])
    for key in (A, B, C):
        one.begin(key, f"{key}", {})
    return one


def epoch(one: Ladder, root: Path, number: int, mrr: float, key: tuple[str, int, int] = A) -> None:
    place = f"grades/x/trials/{key[1]}{key[2]}/checkpoints/{number}"
    folder = root / "run" / place
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("weights", "manifest.json"):
        (folder / name).write_text(f"{key} {number}")
    one.report(key, number, {"valid/both/mrr": mrr}, one.store.located(place), digest(number, key), False)


def digest(number: int, key: tuple[str, int, int] = A) -> str:
    return f"digest-{key[1]}{key[2]}-{number}------"


def told(one: Ladder, key: tuple[str, int, int], number: int) -> str | None:
    teacher = one.teach(key, number)
    return None if teacher is None else teacher.digest


def on_shelf(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("run/grades/0-teacher/teachers/*"))


def names(*numbers: int) -> list[str]:
    return [digest(number)[:16] for number in numbers]


def kinds(one: Ladder) -> list[str]:
    return [event["kind"] for event in one.events]


def test_damaged_teacher_gives_way_to_the_best_that_is_there(store: RunStore, tmp_path: Path) -> None:
    """One bit ends the campaign, and every --resume asks for the same teacher again, although a better one is there."""
    one = ladder(store)
    epoch(one, tmp_path, 1, 0.2)
    assert told(one, B, 0) == digest(1)
    epoch(one, tmp_path, 2, 0.3)
    assert told(one, B, 0) == digest(1)
    assert one.reject_teacher(B, WHY)
    assert told(one, B, 0) == digest(2)
    again = Ladder(store, RULES)
    assert told(again, B, 0) == digest(2)
    assert again.state == one.state
    assert again.record(B).notes == [WHY]
    assert on_shelf(tmp_path) == names(2)


def test_without_another_teacher_a_student_waits_for_the_next(store: RunStore, tmp_path: Path) -> None:
    """It would be sent to the damaged one again: by the report that announced it, or by an epoch that began under it."""
    one = ladder(store)
    epoch(one, tmp_path, 1, 0.3)
    assert told(one, B, 0) == told(one, C, 0) == digest(1)
    assert one.reject_teacher(B, WHY)
    assert told(one, B, 0) is None
    assert told(one, C, 0) is None, "what is damaged for one is damaged for all"
    epoch(one, tmp_path, 1, 0.3)
    assert told(one, B, 0) is None
    epoch(one, tmp_path, 2, 0.25)
    assert told(one, B, 0) == digest(2), "less good, and sound"


def test_former_teacher_comes_back_only_while_it_is_kept(store: RunStore, tmp_path: Path) -> None:
    """A student would be sent to files that are gone, or have nobody although a sound teacher lies there."""
    one = ladder(store)
    for number in (1, 2, 3):
        epoch(one, tmp_path, number, number / 10)
        if number == 1:
            assert told(one, B, 0) == digest(1)
    assert on_shelf(tmp_path) == names(1, 3)
    assert told(one, C, 0) == digest(3)
    assert one.reject_teacher(C, WHY)
    assert told(one, C, 0) == digest(1)
    assert Ladder(store, RULES).state == one.state
    assert one.reject_teacher(C, WHY)
    assert told(one, C, 0) is None


def test_rejection_may_come_twice(store: RunStore, tmp_path: Path) -> None:
    """The answer that was lost with its coordinator, or another worker's word, would end the campaign or cost the next teacher too."""
    one = ladder(store)
    epoch(one, tmp_path, 1, 0.2)
    told(one, B, 0)
    epoch(one, tmp_path, 2, 0.3)
    assert one.reject_teacher(B, WHY)
    assert one.reject_teacher(B, WHY)
    again = Ladder(store, RULES)
    assert again.reject_teacher(B, WHY)
    assert kinds(again).count("teacher_rejected") == 1
    assert told(again, B, 0) == digest(2)


def test_nobody_takes_the_place_of_the_final_teacher(store: RunStore, tmp_path: Path) -> None:
    """A student would end under a teacher that was only announced, or go round in circles."""
    one = ladder(store)
    epoch(one, tmp_path, 1, 0.2)
    told(one, C, 0)
    one.report(A, 2, {"valid/both/mrr": 0.1}, None, None, True)
    one.promote("main", 0)
    assert told(one, B, 8) == digest(1)
    assert not one.reject_teacher(B, WHY)
    assert told(one, C, 0) == digest(1)
    assert one.reject_teacher(C, WHY), "the shelf's copy of it is another matter"
    found = one.teach(C, 0)
    assert found is not None
    assert found.path == one.state.promotions["main", 0].checkpoint
    assert "teacher_rejected" in kinds(one)


def test_epoch_that_is_trained_again_may_have_another_teacher_once_its_own_is_gone(
    store: RunStore, tmp_path: Path
) -> None:
    """A student whose newest checkpoint is damaged repeats an epoch that it has reported, and stops for ever where the teacher was removed since."""
    one = ladder(store)
    epoch(one, tmp_path, 1, 0.2)
    told(one, B, 0)
    epoch(one, tmp_path, 1, 0.1, B)
    epoch(one, tmp_path, 2, 0.3)
    assert told(one, B, 0) == digest(1)
    assert on_shelf(tmp_path) == names(2)
    assert one.reject_teacher(B, "no such checkpoint")
    assert told(one, B, 0) == digest(2)
    assert Ladder(store, RULES).state == one.state


def test_shelf_holds_what_is_learnt_from_and_nothing_else(store: RunStore, tmp_path: Path) -> None:
    """Each better epoch of a long campaign would take the room of a whole checkpoint until its end; or a student's teacher be gone when it resumes."""
    one = ladder(store)
    epoch(one, tmp_path, 1, 0.1)
    told(one, B, 0)
    for number in range(2, 6):
        epoch(one, tmp_path, number, number / 10)
    assert on_shelf(tmp_path) == names(1, 5)
    again = Ladder(store, RULES)
    again.fail(B, "nan")
    epoch(again, tmp_path, 6, 0.6)
    assert on_shelf(tmp_path) == names(1, 6), "a failed trial may be taken up again"
    again.resume(B)
    epoch(again, tmp_path, 1, 0.1, B)
    told(again, B, 1)
    epoch(again, tmp_path, 7, 0.7)
    assert on_shelf(tmp_path) == names(6, 7)


def test_leftovers_of_a_crash_leave_the_shelf(tmp_path: Path) -> None:
    """What a kill in the middle of a copy or a removal leaves would stay, and once a removal that it interrupted, for ever."""
    one = ladder(RunStore.at(tmp_path / "run"))
    epoch(one, tmp_path, 1, 0.1)
    folder = tmp_path / "run/grades/0-teacher/teachers"
    for name in (f".{digest(2)[:16]}.aside", f"{shelf.REMOVED}{digest(1)[:16]}"):
        (folder / name).mkdir()
        (folder / name / "weights").write_text("w")
    epoch(one, tmp_path, 2, 0.2)
    assert on_shelf(tmp_path) == names(2)


def test_removal_that_fails_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server that refuses to remove a folder would end a campaign that needs none of it."""
    one = ladder(RunStore.at(tmp_path / "run"))
    epoch(one, tmp_path, 1, 0.1)

    def refuse(path: Path, aside: Path) -> None:
        if path.name in names(1):
            raise PermissionError(13, "Permission denied")
        shutil.move(path, aside)

    with monkeypatch.context() as patch:
        patch.setattr(shelf.os, "replace", refuse)
        epoch(one, tmp_path, 2, 0.2)
    assert on_shelf(tmp_path) == names(1, 2)
    assert told(one, B, 0) == digest(2)
    epoch(one, tmp_path, 3, 0.3)
    assert on_shelf(tmp_path) == names(2, 3)


def test_copy_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no links, a loss of power would leave an event that names a teacher, and zeros in its place."""
    source = tmp_path / "checkpoint"
    (source / "encoder").mkdir(parents=True)
    for name in ("manifest.json", "encoder/weights"):
        (source / name).write_text(name)
    happened: list[str] = []

    def record(act: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def one(*arguments: Any) -> Any:
            happened.append(name(*arguments))
            return act(*arguments)

        return one

    def no_links(source: str, target: str) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(durable.os, "link", no_links)
    monkeypatch.setattr(durable.os, "fsync", record(os.fsync, lambda it: Path(f"/proc/self/fd/{it}").readlink().name))
    monkeypatch.setattr(durable.os, "replace", record(os.replace, lambda *paths: "named"))
    final = shelf.shelve(source, tmp_path / "teachers", digest(1))
    assert (final / "encoder" / "weights").read_text() == "encoder/weights"
    before = happened[: happened.index("named")]
    assert {"manifest.json", "weights", "encoder", f".{digest(1)[:16]}.aside"} <= set(before)
    assert happened[happened.index("named") + 1 :] == ["teachers"]


@pytest.mark.parametrize(
    ("problem", "announced", "said", "goes_on"),
    [
        (TeacherError(WHY), True, ["reject_teacher"], True),
        (TeacherError(WHY), False, ["reject_teacher", "abort"], False),
        (CheckpointError("all 3 checkpoints are damaged"), True, ["abort"], False),
        (NonFiniteLossError("the loss is nan"), True, ["fail"], False),
    ],
    ids=["announced", "promoted", "its own", "its loss"],
)
def test_what_an_error_of_a_trial_means(
    monkeypatch: pytest.MonkeyPatch, problem: Exception, announced: bool, said: list[str], goes_on: bool
) -> None:
    """A trial whose own checkpoints are damaged would cost its sound teacher; or a damaged final teacher be asked for without end."""
    heard: list[str] = []
    answers = {"reject_teacher": announced, "abort": None, "fail": None}

    def hears(name: str) -> Any:
        def remote(*arguments: Any) -> Any:
            heard.append(name)
            return answers[name]

        return SimpleNamespace(remote=remote)

    monkeypatch.setattr(telling, "ask", lambda answer: answer)
    coordinator = SimpleNamespace(**{name: hears(name) for name in answers})
    assert telling.settle(coordinator, B, problem) == goes_on
    assert heard == said


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2], ids=["inline", "train"])
def test_campaign_goes_on_when_a_teacher_is_damaged(cluster: None, tmp_path: Path, workers: int) -> None:
    """One flipped bit on the shelf would end the campaign, or count as a process that died."""
    root = tmp_path / "run"
    fakes.control(root, until={"0-teacher": "1-layers6"}, damages="1-layers6")
    config = fakes.campaign(
        grades=[{"layers": 6, "mask_ratio": 0.1}],
        schedule={"name": "pipelined", "settle_epochs": 1},
        search={"trials": 1},
        training={"epochs": 4, "batch_size": 4},
        resources={
            "workers_per_trial": workers,
            "cpus_per_worker": 1.0 if workers == 1 else 0.5,
            "max_failures": 0,
        },
    )
    state = Campaign(config, root, fakes.workshop()).run()
    assert state.complete
    history = Ledger.at(root / LEDGER).read()
    [rejected] = [event for event in history if event["kind"] == "teacher_rejected"]
    student = state.trials["main", 1, 0]
    assert student.status == "finished"
    assert rejected["reason"] in student.notes
    assert rejected["checkpoint"] not in {
        str(Path(one.checkpoint).relative_to(root)) for one in student.taught.values()
    }
