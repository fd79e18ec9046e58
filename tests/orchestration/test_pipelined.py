"""All grades at once: students learn from teachers that still improve, and end under the final one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fakes
import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.orchestration.campaign import Campaign
from raydistill.orchestration.ladder import Ladder
from raydistill.orchestration.ledger import Ledger
from raydistill.orchestration.rundir import LEDGER
from raydistill.planning.rules import Rules
from raydistill.planning.schedule import ready
from raydistill.planning.state import CampaignState

A, B = ("main", 0, 0), ("main", 1, 0)
RULES = Rules("pipelined", 0.0, False, 1, 2, epochs=(3, 3), sizes=(12, 6), min_delta=0.05, settle_epochs=1)
GRADES = [{"layers": 6, "mask_ratio": 0.1}, {"layers": 3}]


def ladder(root: Path) -> Ladder:
    one = Ladder(root, RULES)
    one.start("f", ["main"], ["0-teacher", "1-layers6"])
    one.begin(A, "i", {})
    return one


def epoch(one: Ladder, key: tuple[str, int, int], number: int, mrr: float, finished: bool = False) -> bool:
    path = one.store.root / "grades" / "x" / "trials" / f"{key[1]}" / "checkpoints" / f"{number}"
    path.mkdir(parents=True, exist_ok=True)
    (path / "weights").write_text(f"{key} {number}")
    return one.report(key, number, {"valid/both/mrr": mrr}, str(path), f"digest-{key[1]}-{number}-", finished)


def places(one: Ladder, *resting: tuple[str, int]) -> list[int]:
    return [grade for _, grade in ready(["main"], 2, one.state, "pipelined", resting)]


def test_student_starts_under_the_first_checkpoint_and_ends_under_the_last(tmp_path: Path) -> None:
    """A student would wait for the whole grade above, or end under a teacher that was only announced."""
    one = ladder(tmp_path)
    assert places(one) == [0]
    epoch(one, A, 1, 0.2)
    assert places(one) == [0, 1]
    one.begin(B, "k", {})
    first = one.teach(B, 0)
    assert first is not None
    assert first.digest == "digest-0-1-"
    assert Path(first.path).parent.name == "teachers"
    epoch(one, A, 2, 0.24)
    assert one.teach(B, 1) == first, "0.24 is not 0.05 better than 0.2"
    assert one.teach(B, 2) is None, "the last epoch is the final teacher's"
    one.pause(B)
    assert places(one, ("main", 1)) == [0], "a paused trial waits without a place"
    assert one.due("main", 1) == []
    epoch(one, A, 3, 0.3, finished=True)
    one.promote("main", 0)
    assert places(one, ("main", 1)) == [1]
    assert one.due("main", 1) == [one.record(B)]
    assert one.resume(B) == "run"
    last = one.teach(B, 2)
    assert last is not None
    assert last.digest == "digest-0-3-"


def test_answer_stands_in_the_ledger(tmp_path: Path) -> None:
    """An epoch that is trained again after a crash would be taught by another teacher, and end with other bits."""
    one = ladder(tmp_path)
    epoch(one, A, 1, 0.2)
    one.begin(B, "k", {})
    first = one.teach(B, 0)
    epoch(one, A, 2, 0.9)
    again = Ladder(tmp_path, RULES)
    assert again.teach(B, 0) == first
    assert again.record(B).taught[0].digest == "digest-0-1-"
    second = again.teach(B, 1)
    assert second is not None
    assert second.digest == "digest-0-2-"


def test_announcement_survives_a_coordinator_that_dies_before_it(tmp_path: Path) -> None:
    """The best epoch of a teacher would never teach: its report is on record, and what follows from it is not."""
    one = ladder(tmp_path)
    epoch(one, A, 1, 0.2)
    [announced] = [event for event in one.events if event["kind"] == "teacher_announced"]
    number = len(one.events)
    assert one.events[-1] == announced
    (tmp_path / "ledger" / f"{number:08d}.json").unlink()
    again = Ladder(tmp_path, RULES)
    epoch(again, A, 1, 0.2)
    assert [event["digest"] for event in again.events[number - 1 :]] == [announced["digest"]]


def test_announced_teacher_outlives_its_trials_checkpoints(tmp_path: Path) -> None:
    """A trial removes what is neither its best nor its newest, while a student is about to load it."""
    one = ladder(tmp_path)
    epoch(one, A, 1, 0.2)
    report = one.record(A).reports[0]
    for file in Path(report["checkpoint"]).iterdir():
        file.unlink()
    one.begin(B, "k", {})
    teacher = one.teach(B, 0)
    assert teacher is not None
    assert (Path(teacher.path) / "weights").read_text() == f"{A} 1"


def run(config: CampaignConfig, root: Path, resume: bool = False) -> CampaignState:
    return Campaign(config, root, fakes.workshop()).run(resume=resume)


def settings(**more: Any) -> CampaignConfig:
    schedule = {"name": "pipelined", "settle_epochs": 1}
    return fakes.campaign(
        grades=GRADES, schedule=schedule, search={"trials": 1}, training={"epochs": 4, "batch_size": 4}, **more
    )


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2], ids=["inline", "train"])
def test_all_grades_move_at_once(cluster: None, tmp_path: Path, workers: int) -> None:
    """The ladder would run one grade after another, a paused trial keep its place for ever, or a student end under an early teacher."""
    root = tmp_path / "run"
    # The teacher's last epoch waits for the student's first: on a sequential ladder, for two minutes in vain.
    fakes.control(root, until={"0-teacher": "1-layers6"})
    resources = {"workers_per_trial": workers, "cpus_per_worker": 1.0 if workers == 1 else 0.5}
    state = run(settings(resources=resources), root)
    history = Ledger.at(root / LEDGER).read()
    taught = [event for event in history if event["kind"] == "trial_taught"]
    assert [(one["grade"], one["epoch"]) for one in sorted(taught, key=lambda one: (one["grade"], one["epoch"]))] == [
        (grade, number) for grade in (1, 2) for number in range(4)
    ]
    for grade in (1, 2):
        assert state.trials["main", grade, 0].taught[3].digest == state.promotions["main", grade - 1].digest
    promoted = next(n for n, event in enumerate(history) if event["kind"] == "grade_promoted")
    assert history.index(taught[0]) < promoted, "the first student waited for its teacher's end"
    assert not list(root.glob("grades/*/teachers"))
    assert len(fakes.trained(root)) == 12, "no epoch was trained twice"


@pytest.mark.ray
def test_grade_of_many_trials_leaves_room_for_the_next(cluster: None, tmp_path: Path) -> None:
    """A search takes every place there is, and the grades below it begin when it is over."""
    root = tmp_path / "run"
    # On four places: the teacher's last epoch waits for the second student's first, in vain where three trials of the first took all the rest.
    fakes.control(root, until={"0-teacher": "2-layers3"})
    grades = [{"layers": 6, "mask_ratio": {"choice": [0.0, 0.1, 0.2]}, "trials": 3}, {"layers": 3, "trials": 1}]
    config = fakes.campaign(
        grades=grades,
        schedule={"name": "pipelined", "settle_epochs": 1},
        search={"algorithm": "grid"},
        training={"epochs": 3, "batch_size": 4},
        resources={"cpus_per_worker": 0.5},
    )
    state = run(config, root)
    history = Ledger.at(root / LEDGER).read()
    taught = next(n for n, event in enumerate(history) if event["kind"] == "trial_taught" and event["grade"] == 2)
    assert taught < next(n for n, event in enumerate(history) if event["kind"] == "grade_promoted")
    assert [len(state.of("main", grade)) for grade in range(3)] == [1, 3, 1]
    assert all(one.status == "finished" for one in state.trials.values())


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2], ids=["inline", "train"])
def test_trials_that_wait_go_on_in_the_middle_of_their_search(cluster: None, tmp_path: Path, workers: int) -> None:
    """They would be left until the last trial of the search is over; or Tune, which holds them for ended, spoil it or train one of them twice."""
    root = tmp_path / "run"
    # One place each: the teacher ends when the fourth of the six students has begun, which waits for that; three wait by then.
    fakes.control(root, until={"0-teacher": "1-layers6"}, trials=4, patient="1-layers6")
    config = fakes.campaign(
        grades=[{"layers": 6, "mask_ratio": {"choice": [0.0, 0.1, 0.2, 0.25, 0.3, 0.35]}, "trials": 6}],
        schedule={"name": "pipelined", "settle_epochs": 1},
        search={"algorithm": "grid"},
        training={"epochs": 3, "batch_size": 4},
        resources={
            "workers_per_trial": workers,
            "cpus_per_worker": 1.0 if workers == 1 else 0.5,
            "concurrent_trials": 2,
        },
    )
    state = run(config, root)
    history = [event for event in Ledger.at(root / LEDGER).read() if event.get("grade") == 1]
    told = [(event["kind"], event["number"]) for event in history if "number" in event]
    assert [number for kind, number in told if kind == "trial_paused"] == [0, 1, 2]
    assert [number for kind, number in told if kind == "trial_resumed"] == [0, 1, 2]
    assert told.index(("trial_resumed", 2)) < told.index(("trial_begun", 4))
    students = state.of("main", 1)
    assert [one.status for one in students] == ["finished"] * 6
    assert {one.taught[2].digest for one in students} == {state.promotions["main", 0].digest}
    assert len(fakes.trained(root)) == 21, "no epoch was trained twice"
