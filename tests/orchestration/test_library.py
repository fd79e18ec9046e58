"""Work that another run has done is taken from there, whole and verified, or not at all."""

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

from raydistill.config.trial import TrialConfig
from raydistill.errors import CheckpointError, StorageError
from raydistill.orchestration import library as library_module
from raydistill.orchestration.courier import Courier
from raydistill.orchestration.depot import Depot
from raydistill.orchestration.ladder import Ladder
from raydistill.orchestration.lenders import Lenders, lenders_of
from raydistill.orchestration.library import Library, runs_beside
from raydistill.orchestration.remote import RemoteFolder
from raydistill.orchestration.rundir import write_config
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.grades import grade_plans, lineages_of, trial_config
from raydistill.planning.rules import Rules

RULES = Rules("sequential", 0.0, False, 1, 2, epochs=(3, 3), sizes=(12, 6))
KEY = ("main", 0, 0)


def teacher() -> TrialConfig:
    config = fakes.campaign()
    ground = fakes.ground(config)
    return trial_config(config, lineages_of(config)[0], grade_plans(config, ground)[0], {}, ground, None)


def ladder(root: Path, **more: Any) -> Ladder:
    one = Ladder(root, RULES, **more)
    one.start("f", ["main"], ["0-teacher", "1-layers6"])
    return one


@pytest.fixture
def lender(tmp_path: Path) -> Path:
    """A run that has trained its teacher."""
    return lend(tmp_path / "lender")


def lend(root: Path, salt: bytes = b"") -> Path:
    """Train the teacher in a run; with `salt` to other bits, as another machine might."""
    config = teacher()
    root.mkdir(parents=True)
    write_config(root, fakes.campaign())
    one = ladder(root)
    assert one.begin(KEY, config.identity, {}) == "run"
    directory = trial_directory(root)
    directory.mkdir(parents=True)
    for report in fakes.run_trial(config, directory, fakes.Ranks()):
        assert report.checkpoint is not None
        weights = Path(report.checkpoint) / "weights"
        weights.write_bytes(weights.read_bytes() + salt)
        manifest = {"sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
        weights.with_name("manifest.json").write_text(json.dumps(manifest))
        digest = fakes.verify(report.checkpoint)
        one.report(KEY, report.epoch, report.metrics, report.checkpoint, digest, report.finished)
    return root


def search(root: Path) -> None:
    """A search over ladders that has begun."""
    root.mkdir(parents=True)
    write_config(root, fakes.campaign())


def trial_directory(root: Path) -> Path:
    return root / "grades" / "0-teacher" / "trials" / teacher().identity


def test_finished_work_is_taken_over(lender: Path, tmp_path: Path) -> None:
    """The teacher of ten ladders would be trained ten times; or a borrowed one vanish with the run that trained it."""
    borrower = ladder(tmp_path / "borrower", library=Library(RunStore.at(tmp_path / "borrower"), fakes.verify))
    assert borrower.begin(KEY, teacher().identity, {}) == "reused"
    borrower.promote("main", 0)
    promotion = borrower.state.promotions["main", 0]
    original = Ladder(lender, RULES).record(KEY)
    assert promotion.digest == original.best_digest
    assert Path(promotion.checkpoint).is_relative_to(tmp_path / "borrower")
    assert fakes.verify(promotion.checkpoint) == promotion.digest
    assert borrower.record(KEY).notes == [f"taken from {lender}"]
    assert Ladder(tmp_path / "borrower", RULES).state == borrower.state
    assert borrower.begin(("main", 0, 1), "other work", {}) == "run"


@pytest.mark.parametrize("there", ["scored", "not scored yet", "unreadable", "scored otherwise"])
def test_score_of_what_was_taken_is_taken_too(lender: Path, tmp_path: Path, there: str) -> None:
    """Every ladder of a search would encode and rank all of the graph with the teacher that they share; or one that is not scored yet never be."""
    store = RunStore.at(tmp_path / "borrower")
    borrower = ladder(store.root, library=Library(store, fakes.verify))
    borrower.begin(KEY, teacher().identity, {})
    borrower.promote("main", 0)
    lent = Ladder(lender, RULES)
    lent.promote("main", 0)
    if there != "not scored yet":
        lent.record_test("main", 0, {"mrr": 0.25, "bytes": 7.0})
    if there == "unreadable":
        (sorted((lender / "ledger").iterdir())[0]).write_text("no event")
    # Neighbours of the head add to the score of an answer: other numbers, of the same checkpoint.
    config = fakes.campaign(rerank={"hops": 2}) if there == "scored otherwise" else fakes.campaign()
    expected = {"mrr": 0.25, "bytes": 7.0} if there == "scored" else None
    assert lenders_of(store, borrower.state, ("main", 0)).score(config) == expected
    assert not lenders_of(RunStore.at(lender), lent.state, ("main", 0)).places, "what was trained here is scored here"


def test_run_that_cannot_be_read_keeps_no_score_of_another(tmp_path: Path) -> None:
    """Two runs have trained the same, and one of them is damaged: what the sound one found would be measured again."""
    for name in ("damaged", "sound"):
        lend(tmp_path / name)
        one = Ladder(tmp_path / name, RULES)
        one.promote("main", 0)
        one.record_test("main", 0, {"mrr": 0.25})
        digest = one.state.promotions["main", 0].digest
    (sorted((tmp_path / "damaged" / "ledger").iterdir())[0]).write_text("no event")
    places = frozenset(str(tmp_path / name) for name in ("damaged", "sound"))
    assert Lenders(RunStore.at(tmp_path / "borrower"), places, digest).score(fakes.campaign()) == {"mrr": 0.25}


def test_taking_that_was_cut_short_is_completed(lender: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two of its events, a taken trial would promote its last epoch instead of its best."""
    borrower = ladder(tmp_path / "borrower", library=Library(RunStore.at(tmp_path / "borrower"), fakes.verify))
    monkeypatch.setattr(borrower, "append", cut_short(borrower.append, 3))
    with pytest.raises(KeyboardInterrupt):
        borrower.begin(KEY, teacher().identity, {})
    assert Ladder(tmp_path / "borrower", RULES).record(KEY).status == "running"
    again = Ladder(tmp_path / "borrower", RULES, Library(RunStore.at(tmp_path / "borrower"), fakes.verify))
    original = Ladder(lender, RULES).record(KEY)
    assert again.record(KEY).status == "finished"
    assert [one["digest"] for one in again.record(KEY).reports] == [one["digest"] for one in original.reports]


def cut_short(append: Any, after: int) -> Any:
    """An `append` that dies after so many events."""
    left = [after]

    def one(event: dict[str, Any]) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        append(event)

    return one


@pytest.mark.parametrize("harm", ["damaged", "gone", "unreadable"])
def test_what_is_not_what_it_was_is_not_taken(lender: Path, tmp_path: Path, harm: str) -> None:
    """A damaged teacher would spread from run to run, or one broken run keep all the others from starting."""
    best = Path(str(Ladder(lender, RULES).record(KEY).best_checkpoint))
    if harm == "damaged":
        (best / "weights").write_bytes(b"x")
    elif harm == "gone":
        best.rename(tmp_path / "moved")
    else:
        (lender / "ledger" / "00000002.json").write_text("{}")
    borrower = ladder(tmp_path / "borrower", library=Library(RunStore.at(tmp_path / "borrower"), fakes.verify))
    assert borrower.begin(KEY, teacher().identity, {}) == "run"


def test_unfinished_work_is_not_taken(lender: Path, tmp_path: Path) -> None:
    """A trial that is still running, or was stopped early, is not the work that is asked for."""
    numbers = sorted((lender / "ledger").glob("*.json"))
    numbers[-1].unlink()
    borrower = ladder(tmp_path / "borrower", library=Library(RunStore.at(tmp_path / "borrower"), fakes.verify))
    assert borrower.begin(KEY, teacher().identity, {}) == "run"


@pytest.mark.parametrize(
    ("lends", "borrows"),
    [
        ("runs/other", "runs/search/ladders/0000"),
        ("runs/search/ladders/0000", "runs/search/ladders/0001"),
        ("runs/earlier/ladders/0003", "runs/search/ladders/0000"),
        ("runs/search/ladders/0001", "runs/later"),
    ],
)
def test_runs_and_ladders_of_searches_share_their_work(tmp_path: Path, lends: str, borrows: str) -> None:
    """A search would train a teacher that a run beside it has, and a run after a search one that all its ladders have."""
    for name in ("search", "earlier"):
        search(tmp_path / "runs" / name)
    lend(tmp_path / lends)
    root = tmp_path / borrows
    assert ladder(root, library=Library(RunStore.at(root), fakes.verify)).begin(KEY, teacher().identity, {}) == "reused"


def test_storage_that_is_called_ladders_is_no_search(tmp_path: Path) -> None:
    """Runs in a folder of that name would take what lies outside their storage, and not what lies in it."""
    storage = tmp_path / "all" / "ladders"
    inside = lend(storage / "lender")
    lend(tmp_path / "lender")
    assert [one.place for one in runs_beside(RunStore.at(storage / "borrower"))] == [str(inside)]


def test_damaged_run_gives_way_to_a_sound_one(tmp_path: Path) -> None:
    """A teacher that a second run has whole would be trained again, or be put together from two that are not equal to the last bit."""
    damaged, sound = lend(tmp_path / "a", b"a"), lend(tmp_path / "b", b"b")
    borrower = tmp_path / "borrower"
    shutil.copytree(trial_directory(damaged) / "checkpoints", trial_directory(borrower) / "checkpoints")
    (Path(str(Ladder(damaged, RULES).record(KEY).best_checkpoint)) / "weights").write_bytes(b"x")
    one = ladder(borrower, library=Library(RunStore.at(borrower), fakes.verify))
    assert one.begin(KEY, teacher().identity, {}) == "reused"
    assert one.record(KEY).notes == [f"taken from {sound}"]
    for taken, original in zip(one.record(KEY).reports, Ladder(sound, RULES).record(KEY).reports, strict=True):
        assert taken["digest"] == original["digest"] == fakes.verify(taken["checkpoint"])


def test_run_that_found_its_best_damaged_lends_last(tmp_path: Path) -> None:
    """What is second best in a run whose best was damaged would be promoted, though another run has the best."""
    rejecting, sound = lend(tmp_path / "a"), lend(tmp_path / "b")
    one = Ladder(rejecting, RULES)
    (Path(str(one.record(KEY).best_checkpoint)) / "weights").write_bytes(b"x")
    one.reject(KEY, str(one.record(KEY).best_digest), "weights are damaged")
    borrower = ladder(tmp_path / "borrower", library=Library(RunStore.at(tmp_path / "borrower"), fakes.verify))
    borrower.begin(KEY, teacher().identity, {})
    assert borrower.record(KEY).best_digest == Ladder(sound, RULES).record(KEY).best_digest


def test_early_stopping_decides_as_before_after_a_restart(lender: Path, tmp_path: Path) -> None:
    """A trial would be stopped because it lags behind one that another run has trained, but only if the coordinator died in between."""
    rules, root, again = replace(RULES, early_stopping=True), tmp_path / "borrower", tmp_path / "again"
    first, last, epoch_1 = ("main", 0, 1), ("main", 0, 2), {"checkpoint": None, "digest": None, "finished": False}
    one = Ladder(root, rules, Library(RunStore.at(root), fakes.verify))
    one.start("f", ["main"], ["0-teacher", "1-layers6"])
    one.begin(first, "first", {})
    assert not one.report(first, 1, {"valid/both/mrr": 0.15}, **epoch_1)
    assert one.begin(KEY, teacher().identity, {}) == "reused"
    assert one.record(KEY).reports[0]["metrics"]["valid/both/mrr"] > 0.2
    one.begin(last, "last", {})
    shutil.copytree(root, again)
    answers = [each.report(last, 1, {"valid/both/mrr": 0.16}, **epoch_1) for each in (one, Ladder(again, rules))]
    assert answers == [False, False], "it is better than the only one it races"


def elsewhere(tmp_path: Path, name: str) -> RunStore:
    """A run on another file system."""
    (tmp_path / "there").mkdir(exist_ok=True)
    filesystem = fs.SubTreeFileSystem(str(tmp_path / "there"), fs.LocalFileSystem())
    return RunStore.at(name, filesystem).claimed()


@pytest.fixture
def courier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[str], str]]:
    """How the coordinator of such a run verifies what lies there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def of(name: str) -> Callable[[str], str]:
        store = elsewhere(tmp_path, name)
        assert store.remote is not None
        return Courier(fakes.workshop(), Depot(store.remote.filesystem), store).verify_checkpoint

    return of


@pytest.mark.parametrize(
    ("lends", "borrows"),
    [("runs/lender", "runs/borrower"), ("runs/search/ladders/0000", "runs/borrower"), ("lender", "borrower")],
)
def test_finished_work_on_another_file_system_is_taken_over_there(
    tmp_path: Path, courier: Callable[[str], Callable[[str], str]], lends: str, borrows: str
) -> None:
    """In a bucket the teacher of ten ladders would be trained ten times; or one at its top."""
    lender, verify = lend(tmp_path / "there" / lends), courier(borrows)
    borrowing = elsewhere(tmp_path, borrows)
    borrower = Ladder(borrowing, RULES, Library(borrowing, verify))
    borrower.start("f", ["main"], ["0-teacher", "1-layers6"])
    assert borrower.begin(KEY, teacher().identity, {}) == "reused"
    assert borrower.record(KEY).notes == [f"taken from {lends}"]
    borrower.promote("main", 0)
    promotion = borrower.state.promotions["main", 0]
    assert promotion.checkpoint.startswith(f"{borrows}/grades/0-teacher/")
    shutil.rmtree(lender)
    shutil.rmtree(tmp_path / "cache")
    assert verify(promotion.checkpoint) == promotion.digest
    assert borrower.begin(("main", 0, 1), "other work", {}) == "run"


@pytest.mark.parametrize("broken", [CheckpointError, StorageError])
def test_work_that_cannot_be_verified_is_not_taken(lender: Path, tmp_path: Path, broken: type[Exception]) -> None:
    """A campaign that ends because somebody is just removing another run, or the network is down while it looks there."""

    def verify(path: str) -> str:
        raise broken(f"{path} cannot be read")

    borrower = ladder(tmp_path / "borrower", library=Library(RunStore.at(tmp_path / "borrower"), verify))
    assert borrower.begin(KEY, teacher().identity, {}) == "run"


def test_damaged_work_on_another_file_system_is_not_taken(
    tmp_path: Path, courier: Callable[[str], Callable[[str], str]]
) -> None:
    lender = lend(tmp_path / "there" / "runs" / "lender")
    (Path(str(Ladder(lender, RULES).record(KEY).best_checkpoint)) / "weights").write_bytes(b"x")
    borrowing = elsewhere(tmp_path, "runs/borrower")
    borrower = Ladder(borrowing, RULES, Library(borrowing, courier("runs/borrower")))
    borrower.start("f", ["main"], ["0-teacher", "1-layers6"])
    assert borrower.begin(KEY, teacher().identity, {}) == "run"


def test_storage_is_not_listed_for_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of fifty trials in a bucket beside twenty runs: thousands of requests before anything is trained."""
    lend(tmp_path / "lender")
    listed: list[str] = []
    folders = RunStore.folders
    monkeypatch.setattr(RunStore, "folders", lambda run, name: listed.append(name) or folders(run, name))
    library = Library(RunStore.at(tmp_path / "borrower"), fakes.verify)
    for number in range(5):
        assert library.borrow(f"work {number}", "grades/0-teacher/trials/x") is None
    assert listed.count("grades") == 1


@pytest.mark.parametrize("secret", ["a-neighbour", "the storage"])
def test_what_cannot_be_listed_lends_nothing(
    lender: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    """A campaign that ends because a folder beside its run is somebody else's; or takes nothing from anybody for that."""
    neighbour = tmp_path / "a-neighbour"
    (neighbour / "grades").mkdir(parents=True)
    closed, iterdir = neighbour if secret == neighbour.name else tmp_path, Path.iterdir

    def refused(path: Path) -> Iterator[Path]:
        if closed in (path, path.parent) and path != lender:
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refused)
    borrower = ladder(tmp_path / "borrower", library=Library(RunStore.at(tmp_path / "borrower"), fakes.verify))
    assert borrower.begin(KEY, teacher().identity, {}) == ("run" if closed == tmp_path else "reused")


def test_what_was_known_is_lent_while_the_storage_cannot_be_listed(
    lender: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher that was there a minute ago is trained for hours, because the network was down for a moment."""
    library = Library(RunStore.at(tmp_path / "borrower"), fakes.verify)
    assert library.borrow("other work", "grades/0-teacher/trials/x") is None
    monkeypatch.setattr(library_module, "LOOK_SECONDS", 0.0)
    library._look_again = 0.0

    def refused(run: RunStore, name: str) -> list[str]:
        raise StorageError("no network")

    monkeypatch.setattr(RunStore, "folders", refused)
    borrower = ladder(tmp_path / "borrower", library=library)
    assert borrower.begin(KEY, teacher().identity, {}) == "reused"


def test_paths_of_another_file_system_stay_as_they_are() -> None:
    """On HDFS paths are absolute: without the slash a checkpoint lies in somebody's home, and is found by nobody."""
    absolute = RemoteFolder(fs.LocalFileSystem(), "/data/runs/first")
    assert absolute.below("grades/1").folder == "/data/runs/first/grades/1"
    assert absolute.above().folder == "/data/runs"
    assert RemoteFolder(fs.LocalFileSystem(), "/first").above().folder == "/first"
    relative = RemoteFolder(fs.LocalFileSystem(), "first")
    assert (relative.above().folder, relative.above().below("second").folder) == ("", "second")
    bucket = RemoteFolder(fs.LocalFileSystem(), "bucket/runs/first", "s3://bucket/runs/first?region=x")
    assert (bucket.above().folder, bucket.above().uri) == ("bucket/runs", "s3://bucket/runs?region=x")
    whole = RemoteFolder(fs.LocalFileSystem(), "bucket", "s3://bucket")
    assert (whole.above().folder, whole.above().uri) == ("bucket", "s3://bucket"), (
        "all buckets of an account are no storage"
    )
