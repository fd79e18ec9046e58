"""The checkpoints of trials that lost are removed, and what a kill leaves of them is removed later. Without Ray."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fakes
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from raydistill.errors import StorageError
from raydistill.flocks import is_locked, lock_file
from raydistill.orchestration import freeing as module
from raydistill.orchestration.campaign import Campaign
from raydistill.orchestration.coordinator import Coordinator
from raydistill.orchestration.depot import cache_folder
from raydistill.orchestration.freeing import free_at_rest, free_bytes
from raydistill.orchestration.ladder import Ladder
from raydistill.orchestration.library import Library
from raydistill.orchestration.remote import RemoteFolder
from raydistill.orchestration.rundir import read_state, write_config
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.rules import Rules

RULES = Rules("sequential", 0.0, False, 1, 2, epochs=(2, 2), sizes=(12, 6), keep_trials=1)
ALL = Rules("sequential", 0.0, False, 1, 2, epochs=(2, 2), sizes=(12, 6))
GRADES = ["0-teacher", "1-layers6"]
SCORES = {"i0": 0.2, "i1": 0.4, "i2": 0.3}


@pytest.fixture(params=["here", "elsewhere"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """A run on a local disk, and one on another file system."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "run").mkdir()
    if request.param == "here":
        return RunStore.at(tmp_path / "run")
    return RunStore.at("run", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())).claimed()


def coordinator(store: RunStore, rules: Rules = RULES) -> Coordinator:
    one = Coordinator(store, rules)
    one.start("f", ["main"], GRADES)
    return one


def checkpoint(root: Path, place: str) -> str:
    """Write a checkpoint as the fakes do; returns its digest."""
    folder = root / "run" / place
    folder.mkdir(parents=True)
    (folder / "weights").write_text(place)
    (folder / "manifest.json").write_text(json.dumps({"sha256": hashlib.sha256(place.encode()).hexdigest()}))
    return fakes.verify(str(folder))


def trained(one: Coordinator, root: Path, scores: dict[str, float] = SCORES) -> None:
    """Every trial of the student's grade, each with two checkpoints."""
    for number, (identity, mrr) in enumerate(scores.items()):
        key = ("main", 1, number)
        assert one.begin(key, identity, {}) == "run"
        for epoch in (1, 2):
            place = f"grades/1-layers6/trials/{identity}/checkpoints/{epoch:08d}"
            digest = checkpoint(root, place)
            metrics = {"valid/both/mrr": mrr - 0.01 * epoch}
            one.report(key, epoch, metrics, one.ladder.store.located(place), digest, epoch == 2)


def there(root: Path) -> list[str]:
    """Whose checkpoints are there; half of one counts."""
    found = root.glob("run/grades/*/trials/*/*checkpoints/**/*")
    return sorted({path.relative_to(root / "run/grades/1-layers6/trials").parts[0] for path in found if path.is_file()})


def kinds(one: Coordinator) -> list[str]:
    return [event["kind"] for event in one.news(0)]


def test_losers_go_while_their_grade_is_searched_and_when_it_has_promoted(store: RunStore, tmp_path: Path) -> None:
    """A hundred trials would keep their checkpoints for ever; or the student that was promoted go with them."""
    one = coordinator(store)
    trained(one, tmp_path)
    assert there(tmp_path) == ["i1", "i2"], "the first had lost when the third began"
    assert kinds(one).count("trial_freed") == 1
    one.promote("main", 1)
    assert there(tmp_path) == ["i1"]
    assert kinds(one)[-2:] == ["grade_promoted", "trial_freed"]
    state = read_state(store)
    assert state == one.ladder.state
    for record in state.of("main", 1):
        assert record.freed == (record.identity != "i1")
        assert [one["checkpoint"] is None for one in record.reports] == [record.freed] * 2
    assert state.of("main", 1)[2].best_mrr == pytest.approx(0.29)
    again = coordinator(store)
    again.promote("main", 1)
    again.record_test("main", 1, {"test/both/mrr": 0.1})
    assert kinds(again).count("trial_freed") == 2, "nothing goes twice"
    assert again.winner("main", 1).identity == "i1"


def test_all_stay_unless_asked_for(store: RunStore, tmp_path: Path) -> None:
    """Whoever has the disk would lose work; and --resume with another number has to make room, or to leave what is gone in peace."""
    one = coordinator(store, ALL)
    trained(one, tmp_path)
    one.promote("main", 1)
    assert there(tmp_path) == ["i0", "i1", "i2"]
    coordinator(store)
    assert there(tmp_path) == ["i1"]
    assert coordinator(store, ALL).ladder.state.of("main", 1)[0].freed


class KilledError(BaseException):
    """In place of SIGKILL."""


def killed(*_: Any) -> None:
    raise KilledError


@pytest.mark.parametrize("what", ["before", "between", "inside"])
def test_kill_leaves_a_checkpoint_or_a_word_that_it_is_gone(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The ledger would promise a checkpoint that is half gone, or what is left of it stay for ever."""
    one = coordinator(store)
    trained(one, tmp_path)
    with monkeypatch.context() as patch:
        if what == "before":
            patch.setattr(one.ladder, "tell", killed)
        elif what == "between":
            patch.setattr(module, "_clear", killed)
        else:
            remove: Callable[..., Any] = RemoteFolder.remove
            patch.setattr(module.shutil, "rmtree", lambda path, **_: None if "ignore_errors" in _ else killed())
            patch.setattr(RemoteFolder, "remove", lambda self: (remove(self), killed()))
        with pytest.raises(KilledError):
            one.promote("main", 1)
    state = read_state(store)
    for record in state.of("main", 1):
        for report in record.reports:
            assert (
                report["checkpoint"] is None or (tmp_path / "run" / str(store.relative(report["checkpoint"]))).is_dir()
            )
    assert len(there(tmp_path)) > 1, "the kill came too late"
    coordinator(store)
    assert there(tmp_path) == ["i1"]
    assert sum(record.freed for record in read_state(store).trials.values()) == 2


def test_campaign_that_is_complete_makes_room_too(store: RunStore, tmp_path: Path) -> None:
    """Whoever finds the disk full when all is done would have to remove by hand what the ledger then calls damaged."""
    one = coordinator(store, ALL)
    trained(one, tmp_path)
    one.promote("main", 1)
    state = free_at_rest(store, RULES)
    assert there(tmp_path) == ["i1"]
    assert [record.freed for record in state.of("main", 1)] == [True, False, True]
    assert read_state(store) == state
    rows = pq.read_table(tmp_path / "run/metrics.parquet").to_pylist()
    assert {row["identity"] for row in rows if row["checkpoint"] is not None} == {"i1"}


def test_bucket_without_a_working_folder_makes_room(tmp_path: Path) -> None:
    """A campaign in a bucket that is complete is not claimed again, and has no folder here."""
    bucket = RunStore.at("run", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))
    one = Coordinator(bucket.claimed(), ALL)
    one.start("f", ["main"], GRADES)
    trained(one, tmp_path)
    one.promote("main", 1)
    free_at_rest(bucket, RULES)
    assert there(tmp_path) == ["i1"]


def test_what_this_machine_has_not_forgotten_goes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that failed leaves its checkpoints on its machine: nobody sends them any more."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bucket = RunStore.at("run", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())).claimed()
    one = coordinator(bucket)
    trained(one, tmp_path)
    assert bucket.root.is_relative_to(cache_folder())
    here = bucket.root / "grades/1-layers6/trials/i2/checkpoints"
    (here / "00000002").mkdir(parents=True)
    one.promote("main", 1)
    assert not here.exists()


def test_trial_with_last_words_is_left_until_it_has_said_them(tmp_path: Path) -> None:
    """It removes its own checkpoints when it has ended, and would stumble over those that are gone."""
    store = RunStore.at(tmp_path / "run")
    one = coordinator(store)
    trained(one, tmp_path)
    lock = tmp_path / "run/grades/1-layers6/trials/i2/.lock"
    descriptor = lock_file(lock)
    assert is_locked(descriptor, lock)
    one.promote("main", 1)
    assert there(tmp_path) == ["i1", "i2"]
    os.close(descriptor)
    one.record_test("main", 1, {"test/both/mrr": 0.1})
    assert there(tmp_path) == ["i1"]


def test_storage_that_refuses_ends_nothing(store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign would fail because it could not tidy up."""
    one = coordinator(store)
    trained(one, tmp_path)
    with monkeypatch.context() as patch:
        refuse = partial(_refused, "no permission")
        patch.setattr(module.os, "replace", refuse)
        patch.setattr(RemoteFolder, "folders", refuse)
        patch.setattr(module, "AGAIN_SECONDS", 0.0)
        one.promote("main", 1)
    assert there(tmp_path) == ["i1", "i2"]
    one.record_test("main", 1, {"test/both/mrr": 0.1})
    assert there(tmp_path) == ["i1"]


def test_work_that_has_lost_in_its_grade_is_not_done_twice(store: RunStore, tmp_path: Path) -> None:
    """A point that is proposed again, in other words, would be trained again because its checkpoints are gone."""
    one = coordinator(store)
    trained(one, tmp_path)
    assert one.ladder.state.trials["main", 1, 0].freed
    assert one.begin(("main", 1, 3), "i0", {}) == "reused"
    assert one.ladder.state.trials["main", 1, 3].best_mrr == pytest.approx(0.19)
    one.promote("main", 1)
    assert one.ladder.state.promotions["main", 1].identity == "i1"


def test_work_that_is_asked_for_is_not_freed_first(tmp_path: Path) -> None:
    """Another lineage waited for it, and would train it again; or go on from what its process has still to say its last words about."""
    one = coordinator(RunStore.at(tmp_path / "run"))
    trained(one, tmp_path, {"i1": 0.4, "i0": 0.2})
    assert one.begin(("other", 1, 0), "i0", {}) == "reused"
    assert there(tmp_path) == ["i0", "i1"]


def test_work_that_is_freed_and_not_removed_yet_is_waited_for(tmp_path: Path) -> None:
    """Whoever did it anew would find its last epoch in the folder, and report that alone."""
    one = coordinator(RunStore.at(tmp_path / "run"))
    trained(one, tmp_path)
    lock = tmp_path / "run/grades/1-layers6/trials/i2/.lock"
    descriptor = lock_file(lock)
    assert is_locked(descriptor, lock)
    one.promote("main", 1)
    assert one.ladder.state.trials["main", 1, 2].freed
    assert one.begin(("other", 1, 0), "i2", {}) == "wait"
    os.close(descriptor)
    assert one.begin(("other", 1, 0), "i2", {}) == "run"
    assert there(tmp_path) == ["i1"]


def test_nothing_is_looked_for_where_nothing_has_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that waits asks several times a second, and reports of trials wait for its answer."""
    one, looks = coordinator(RunStore.at(tmp_path / "run")), list[int]()
    trained(one, tmp_path)
    before = module.superfluous
    monkeypatch.setattr(module, "superfluous", lambda *told: (looks.append(1), before(*told))[1])
    for _ in range(3):
        one.promote("main", 1)
    assert len(looks) == 1


def _refused(why: str, *_: Any) -> None:
    raise StorageError(why)


@pytest.mark.ray
def test_campaign_keeps_what_it_promotes(cluster: None, tmp_path: Path) -> None:
    """The first grade's losers would go while its students learn, and something else be promoted; or nobody ask for it at all."""
    resources = {"backend": "inline", "concurrent_trials": 1}
    config = fakes.campaign(resources=resources, storage={"keep_trials": 1})
    state = Campaign(config, tmp_path / "run", fakes.workshop()).run()
    assert {place: one.digest for place, one in state.promotions.items()} == fakes.expected(config, tmp_path / "twin")
    identities = {one.identity for one in state.promotions.values()}
    assert len(state.trials) == 5
    assert {record.identity for record in state.trials.values() if not record.freed} == identities
    folders = (tmp_path / "run").glob("grades/*/trials/*/checkpoints")
    assert {path.parent.name for path in folders} == identities
    again = Campaign(fakes.campaign(resources=resources), tmp_path / "run", fakes.workshop()).run(resume=True)
    assert again.trials == state.trials


def test_room_is_known_of_disks_alone(store: RunStore, tmp_path: Path) -> None:
    """A campaign in a bucket would be warned of a disk that it does not use."""
    free = free_bytes(store)
    assert (free is None) == (store.remote is not None)
    assert free is None or free > 0


def test_freed_work_is_trained_again_by_whoever_wants_it(store: RunStore, tmp_path: Path) -> None:
    """A trial would be taken over without a checkpoint, so that nothing can be promoted; or lose its new ones at the next look."""
    one = coordinator(store)
    trained(one, tmp_path)
    one.promote("main", 1)
    assert one.begin(("main", 0, 0), "i0", {}) == "run"
    place = "grades/0-teacher/trials/i0/checkpoints/00000001"
    digest = checkpoint(tmp_path, place)
    one.report(("main", 0, 0), 1, {"valid/both/mrr": 0.1}, store.located(place), digest, True)
    again = coordinator(store)
    assert (tmp_path / "run" / place / "weights").exists()
    again.promote("main", 0)
    assert again.ladder.state.promotions["main", 0].checkpoint == store.located(place)


def test_other_runs_borrow_what_is_kept_and_nothing_else(tmp_path: Path) -> None:
    """A run would take over a trial whose best checkpoint is gone; and what it took before would go with ours, whose bytes it shares."""
    one = coordinator(RunStore.at(tmp_path / "run"), ALL)
    write_config(tmp_path / "run", fakes.campaign())
    trained(one, tmp_path)
    before, after = (ladder(tmp_path / name) for name in ("before", "after"))
    assert before.begin(("main", 1, 0), "i0", {}) == "reused"
    one.promote("main", 1)
    free_at_rest(RunStore.at(tmp_path / "run"), RULES)
    assert after.begin(("main", 1, 0), "i2", {}) == "run"
    assert after.begin(("main", 1, 1), "i1", {}) == "reused"
    before.promote("main", 1)
    promotion = before.state.promotions["main", 1]
    assert fakes.verify(promotion.checkpoint) == promotion.digest


def test_trials_that_are_borrowed_make_room_for_each_other(tmp_path: Path) -> None:
    """A search that takes over a hundred trials would keep them all until it promotes."""
    one = coordinator(RunStore.at(tmp_path / "run"), ALL)
    write_config(tmp_path / "run", fakes.campaign())
    trained(one, tmp_path)
    borrower = ladder(tmp_path / "borrower", RULES)
    for number, identity in enumerate(SCORES):
        assert borrower.begin(("main", 1, number), identity, {}) == "reused"
    assert [record.freed for record in borrower.state.of("main", 1)] == [True, False, False]
    kept = (tmp_path / "borrower").glob("grades/1-layers6/trials/*/checkpoints")
    assert sorted(path.parent.name for path in kept) == ["i1", "i2"]
    assert there(tmp_path) == ["i0", "i1", "i2"], "they are another run's"


def ladder(root: Path, rules: Rules = ALL) -> Ladder:
    one = Ladder(root, rules, Library(RunStore.at(root), fakes.verify))
    one.start("f", ["main"], GRADES)
    return one


@pytest.mark.parametrize("look", [1, 2])
def test_trial_that_goes_while_it_is_borrowed_is_not_lent(store: RunStore, tmp_path: Path, look: int) -> None:
    """Sound when it was looked at, gone when it was to be copied: the borrower would promote its second best epoch, or none, or half of it."""
    one = coordinator(store, ALL)
    write_config(store, fakes.campaign())
    trained(one, tmp_path)
    one.promote("main", 1)
    looks = []

    def verify(path: str) -> str:
        digest = fakes.verify(str(tmp_path / path))
        looks.append(path)
        if len(looks) == look:
            free_at_rest(store, RULES)
        return digest

    beside = RunStore.at(
        tmp_path / "borrower" if store.remote is None else "borrower",
        store.remote and store.remote.filesystem,
    )
    assert Library(beside, verify).borrow("i0", "grades/1-layers6/trials/i0") is None
    assert len(looks) == look, "it is not what was lent that went"
    left = (tmp_path / "borrower").glob("grades/1-layers6/trials/i0/checkpoints/*/weights")
    assert list(left) == [], "whoever trains it here would go on from its last epoch, and never report its best"
