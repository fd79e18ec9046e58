"""What a search does with trials that wait for their final teacher: it learns from them, and takes them up as soon as they may go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TeacherReference
from raydistill.orchestration import driver as drivers
from raydistill.orchestration import searcher
from raydistill.orchestration.driver import Driver
from raydistill.orchestration.ladder import Ladder
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.searcher import Allowance, Proposer, StudySearcher
from raydistill.orchestration.study import Study
from raydistill.planning.grades import grade_plans, lineages_of
from raydistill.planning.records import TrialKey
from raydistill.planning.rules import rules_of
from raydistill.planning.search import Observation, propose

TEACHER: TrialKey = ("main", 0, 0)


class Direct:
    """A coordinator's handle whose messages are answered here and now."""

    def __init__(self, ladder: Ladder) -> None:
        self.ladder = ladder

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.ladder, name))


class Scene:
    """A teacher that has announced a checkpoint, and the study of the grade below it."""

    def __init__(self, root: Path, trials: int = 8) -> None:
        grade = {"layers": 6, "mask_ratio": {"uniform": [0.0, 0.3]}, "trials": trials}
        self.config: CampaignConfig = fakes.campaign(
            grades=[grade], schedule={"name": "pipelined"}, search={"startup_trials": 3}
        )
        self.ground = fakes.ground(self.config)
        self.plans = grade_plans(self.config, self.ground)
        self.lineages = lineages_of(self.config)
        self.ladder = Ladder(root, rules_of(self.config, self.plans))
        self.ladder.start("f", ["main"], [plan.folder for plan in self.plans])
        teacher = TeacherReference(path="", digest="main, grade 0")
        store = RunStore.at(root)
        self.study = Study(self.config, self.ground, self.lineages[0], self.plans[1], teacher, store)
        self.ladder.begin(TEACHER, "teacher", {})
        self.epoch(TEACHER, 1, 0.1)

    def proposer(self) -> Proposer:
        return Proposer(self.study, Direct(self.ladder))

    def epoch(self, key: TrialKey, number: int, mrr: float, finished: bool = False) -> None:
        if key != TEACHER:
            assert self.ladder.teach(key, number - 1) is not None
        place = self.ladder.store.root / f"{key[1]}-{key[2]}" / f"{number}"
        place.mkdir(parents=True)
        (place / "weights").write_text(f"{key} {number}")
        self.ladder.report(key, number, {"valid/both/mrr": mrr}, str(place), f"{key[1]}-{key[2]}-{number}-", finished)

    def wait(self, number: int, mrr: float) -> None:
        """Train a trial of three epochs to where it needs its final teacher."""
        key = self.study.key(number)
        self.epoch(key, 1, mrr - 0.01)
        self.epoch(key, 2, mrr)
        assert self.ladder.teach(key, 2) is None
        self.ladder.pause(key)

    def promote(self) -> None:
        self.epoch(TEACHER, 2, 0.5, finished=True)
        self.ladder.promote("main", 0)

    def statuses(self) -> list[str]:
        return [one.status for one in self.ladder.study("main", 1)]


@pytest.fixture(name="scene")
def _scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Scene:
    monkeypatch.setattr(searcher, "ask", lambda answer: answer)
    monkeypatch.setattr(drivers, "ask", lambda answer: answer)
    return Scene(tmp_path, getattr(request, "param", 8))


@pytest.mark.parametrize("then", ["all wait", "all go on"])
def test_search_learns_from_trials_that_wait(scene: Scene, then: str) -> None:
    """TPE would draw every point of a student's search blindly, because each trial waits for its final teacher before it has finished."""
    proposer, worth = scene.proposer(), {}
    for number in range(5):
        assert proposer.next() == number
        point = scene.ladder.record(scene.study.key(number)).parameters
        worth[number] = 0.5 - abs(point["mask_ratio"] - 0.2)
        scene.wait(number, worth[number])
    if then == "all go on":
        scene.promote()
        for number in range(5):
            assert proposer.next() == number
        assert scene.statuses() == ["running"] * 5
    assert proposer.next() == 5
    found = scene.ladder.record(scene.study.key(5)).parameters
    assert found == drawn(scene, worth.get)
    assert found != drawn(scene, lambda number: None), "the draw does not tell whether anything was learnt"


def drawn(scene: Scene, worth: Callable[[int], float | None]) -> dict[str, Any] | None:
    """The sixth point, where the first five are worth so much."""
    records = scene.ladder.study("main", 1)[:5]
    history = [Observation(one.number, one.parameters, worth(one.number)) for one in records]
    return propose(scene.study.space, history, 5, algorithm="tpe", seed=0, grade=1, startup_trials=3)


def test_waiting_trials_go_on_when_their_teacher_comes(scene: Scene) -> None:
    """They would wait for the last trial of the search, and what they hold back of it for as long."""
    proposer = scene.proposer()
    for number in range(2):
        assert proposer.next() == number
        scene.wait(number, 0.3)
    assert proposer.next() == 2, "nobody goes on before the teacher is there"
    scene.promote()
    assert [proposer.next() for _ in range(3)] == [0, 1, 3]
    assert scene.statuses() == ["running"] * 4


@pytest.mark.parametrize("scene", [2], indirect=True)
def test_trial_is_given_out_again_while_its_search_goes_on(scene: Scene) -> None:
    """Tune would be told that the search is over while trials wait and others run, or get no place for one that has waited."""
    proposer = scene.proposer()
    first = proposer.next()
    assert first is not None
    search = StudySearcher(proposer, first, Allowance(2))
    assert search.suggest("a") == {"number": 0}
    assert search.suggest("b") == {"number": 1}
    scene.wait(0, 0.3)
    search.on_trial_complete("a")
    assert search.suggest("c") is None, "it has room, and nothing to run before the teacher is there"
    scene.promote()
    assert search.suggest("c") == {"number": 0}
    assert search.suggest("d") is None
    for number, trial in ((0, "c"), (1, "b")):
        for epoch in range(3 if number == 0 else 1, 4):
            scene.epoch(scene.study.key(number), epoch, 0.4, finished=epoch == 3)
        search.on_trial_complete(trial)
    assert search.suggest("d") == "FINISHED"
    assert scene.statuses() == ["finished", "finished"]


def test_search_that_is_taken_up_again_runs_what_need_not_wait(scene: Scene) -> None:
    """One waiting trial would keep interrupted and new ones from running until the grade above has promoted, or be run without a teacher."""
    first = scene.proposer()
    assert [first.next() for _ in range(3)] == [0, 1, 2]
    scene.wait(0, 0.3)
    again = scene.proposer()
    assert [again.next() for _ in range(3)] == [1, 2, 3]
    assert scene.statuses() == ["paused", "running", "running", "running"]


class Runner:
    """A process of a study that does nothing."""

    def __init__(self) -> None:
        self.run = self
        self.begun: list[tuple[str, int]] = []

    def remote(self, study: Study, coordinator: Any, workshop: Any) -> str:
        self.begun.append(study.place)
        return f"{len(self.begun)}"


def driver(scene: Scene, runner: Runner) -> Driver:
    """A driver of the scene, as it is after it has read the ledger."""
    room = SimpleNamespace(places=4)
    machines = SimpleNamespace(room=room, weight=lambda cpus, workers: 1, share=lambda trials, grade: (1, 1.0))
    one = Driver(
        scene.config,
        scene.ground,
        scene.lineages,
        scene.plans,
        scene.study.store,
        machines,  # type: ignore[arg-type]
        Direct(scene.ladder),
        fakes.workshop(),
    )
    one.state = scene.ladder.state
    one.runners = SimpleNamespace(take=lambda: runner, put=lambda put: None, let_go=lambda: None)  # type: ignore[assignment]
    return one


def test_grade_rests_only_when_its_search_is_over(scene: Scene) -> None:
    """A grade with one waiting trial would not be gone on with after a crash; or one whose trials all wait be started again and again."""
    proposer, runner = scene.proposer(), Runner()
    for number in range(2):
        proposer.next()
        scene.wait(number, 0.3)
    one = driver(scene, runner)
    one._start_studies()
    assert runner.begun == [("main", 0), ("main", 1)]
    one._finish_study("2", one.jobs.pop("2"))
    one._start_studies()
    assert len(runner.begun) == 2, "its search has ended: all that is left waits"
    scene.promote()
    one._start_studies()
    assert len(runner.begun) == 2, "the teacher's study has not returned, and its process with it"
    one._finish_study("1", one.jobs.pop("1"))
    one._start_studies()
    assert runner.begun[2:] == [("main", 1)]
