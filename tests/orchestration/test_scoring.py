"""Scoring promoted checkpoints: where there is room, once each, and what becomes of those that cannot be scored. Without a cluster."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import pytest
from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError

from raydistill.config.resources import ResourcesSection
from raydistill.errors import OutOfMemoryError, ProcessError, RoomError, ScoringError
from raydistill.orchestration import ladder_search, scoring
from raydistill.orchestration.ladder_search import LadderSearch
from raydistill.orchestration.machines import Machines, Room
from raydistill.orchestration.scoring import Scoring, Scorings, score
from raydistill.orchestration.search_record import SearchRecord
from raydistill.orchestration.together import Team
from raydistill.planning.places import capacity
from raydistill.planning.records import TAKEN, Promotion, TrialRecord
from raydistill.planning.state import CampaignState

Place = tuple[str, int]


@pytest.fixture
def scorings(monkeypatch: pytest.MonkeyPatch) -> Scorings:
    """Those of a ladder of three grades, whose trials have one CPU, one and two, on a machine of two; nothing is run."""
    state = CampaignState()
    numbers = itertools.count()

    def record(lineage: str, grade: int, metrics: Mapping[str, float]) -> None:
        state.tests[lineage, grade] = dict(metrics)

    def ask(answer: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    for grade in range(3):
        place = "main", grade
        state.promotions[place] = Promotion(*place, f"t{grade}", f"/run/{grade}", f"d{grade}", 1, {})
    studies: dict[Place, Any] = {
        ("main", grade): SimpleNamespace(
            cpus=cpus,
            threads=int(cpus),
            title=f"main, grade {grade}-x",
            plan=SimpleNamespace(index=grade),
            store=None,
        )
        for grade, cpus in enumerate((1.0, 1.0, 2.0))
    }
    coordinator = SimpleNamespace(record_test=SimpleNamespace(remote=record), state=state)
    machines = Machines(ResourcesSection(), Room(2, 2.0, 0.0, 2.0, ({"CPU": 2.0},)))
    found = Scorings(fakes.campaign(), coordinator, fakes.workshop(), machines, studies)
    monkeypatch.setattr(scoring, "ask", ask)
    monkeypatch.setattr(
        found,
        "_start",
        lambda checkpoint, study, team, group, lenders: (next(numbers), checkpoint, team.cpus, study.threads),
    )
    return found


def end(scorings: Scorings, monkeypatch: pytest.MonkeyPatch, outcome: Callable[[Place], Any]) -> None:
    """Let all that run end with an answer, or an error."""
    for reference, one in list(scorings.running.items()):
        told = outcome(one.place)
        monkeypatch.setattr(scoring, "ask", _answering(scoring.ask, reference, told))
        scorings.finish(reference)


def _answering(ask: Callable[[Any], Any], reference: Any, told: Any) -> Callable[[Any], Any]:
    return lambda answer: ask(told if answer is reference else answer)


def test_scoring_has_the_cpus_of_its_grades_trials_and_takes_their_room(
    scorings: Scorings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread for the longest ranking of all, on a machine that has nothing else to do; or a scoring for whose CPUs a trial waits."""
    state = scorings.coordinator.state
    scorings.start(state, 1)
    assert (list(scorings.running), scorings.room) == ([(0, "/run/0", 1.0, 1)], 1)
    assert scorings.beside == [{"CPU": 1.0, "GPU": 0.0}]
    scorings.start(state, 1)
    assert (list(scorings.running)[1:], scorings.room) == ([(1, "/run/1", 1.0, 1)], 2)
    end(scorings, monkeypatch, lambda place: {"mrr": 1.0})
    scorings.start(state, 1)
    assert scorings.running == {}
    scorings.start(state, 2)
    assert (list(scorings.running), scorings.room) == ([(2, "/run/2", 2.0, 2)], 2)


@pytest.mark.parametrize("shared", [True, False])
def test_score_is_asked_of_the_runs_that_lent_the_checkpoint(
    scorings: Scorings, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """The teacher that eight ladders share would be scored eight times; or numbers come from a run with which nothing is to be shared."""
    scorings.config = fakes.campaign(storage={"share_trials": shared})
    state, asked = scorings.coordinator.state, list[Any]()
    monkeypatch.setattr(scorings, "_start", lambda *told: asked.append(told[-1]) or len(asked))
    record = TrialRecord("t0", "main", 0, 0, {}, notes=["the disk is slow", f"{TAKEN}/storage/first"])
    state.trials = {record.key: record, ("main", 1, 0): TrialRecord("t1", "main", 1, 0, {})}
    scorings.start(state, 2)
    assert [one and (one.places, one.digest) for one in asked] == (
        [({"/storage/first"}, "d0"), (set(), "d1")] if shared else [None, None]
    )


def test_score_that_another_run_has_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take the whole graph through the teacher, for numbers that are there."""
    told, measured = ("/run/0", fakes.campaign()), list[Any]()
    monkeypatch.setattr(scoring, "end_with_head", lambda: None)
    monkeypatch.setattr(scoring, "score", lambda *asked: measured.append(asked) or {"mrr": 0.1})
    monkeypatch.setattr(scoring, "together", lambda work, asked, team, group: work(*asked))
    lends: Any = SimpleNamespace(score=lambda config: {"mrr": 0.5})
    nobody: Any = SimpleNamespace(score=lambda config: None)
    team: Any = None
    assert scoring._score_alone(lends, *told) == scoring._score_together(lends, told, team, team) == {"mrr": 0.5}
    assert measured == []
    for lenders in (nobody, None):
        assert scoring._score_alone(lenders, *told) == {"mrr": 0.1}
        assert scoring._score_together(lenders, told, team, team) == {"mrr": 0.1}
    assert measured == [told] * 4


def test_score_of_a_shared_teacher_does_not_wait_for_the_whole_machine(scorings: Scorings) -> None:
    """It was trained on all of it, before the other ladders began; these would take whatever becomes free, and a ladder that is done wait for its end."""
    room = scorings.machines.room
    scorings.machines = Machines(ResourcesSection(), room, beside=2, alone=(0,))
    scorings.studies["main", 0].cpus = 2.0
    scorings.start(scorings.coordinator.state, 1)
    assert list(scorings.running) == [(0, "/run/0", 1.0, 1)]


@pytest.mark.parametrize(("cpus", "size"), [(4.0, 2), (2.0, 2), (1.0, 1)])
def test_scoring_has_the_workers_of_a_trial_or_as_many_as_there_is_room_for(
    scorings: Scorings, monkeypatch: pytest.MonkeyPatch, cpus: float, size: int
) -> None:
    """All entities in one process, where trials have two; or two that wait for a machine which was lost for good."""
    given_back: list[Any] = []
    monkeypatch.setattr(scoring, "remove_placement_group", given_back.append)
    monkeypatch.setattr(Team, "room", lambda team: f"room for {team.size}")
    resources = ResourcesSection(workers_per_trial=2)
    scorings.config = fakes.campaign(resources={"workers_per_trial": 2})
    # One of two machines of half as many CPUs each is lost for good in the last case, after it was trained on both.
    scorings.machines = Machines(resources, Room(capacity(resources, cpus, 0.0), cpus, 0.0, cpus, ({"CPU": cpus},)))
    scorings.start(scorings.coordinator.state, scorings.machines.room.places, alone=True)
    [one, *_] = scorings.running.values()
    assert one.group == (f"room for {size}" if size > 1 else None)
    assert one.room == 1
    # What a group has asked for is known from the group.
    assert len(scorings.beside) == (0 if size > 1 else len(scorings.running))
    running = len(scorings.running)
    end(scorings, monkeypatch, lambda place: {"mrr": 1.0})
    assert given_back == [one.group] * (running if size > 1 else 0)
    assert one.place in scorings.coordinator.state.tests


@pytest.mark.parametrize(
    "problem",
    [
        ProcessError("one of 2 processes died"),
        RayActorError,
        WorkerCrashedError,
        RoomError("1 of 2 processes had not started"),
    ],
    ids=str,
)
def test_scoring_that_lost_a_machine_begins_anew_with_as_many_as_there_is_room_for(
    scorings: Scorings, monkeypatch: pytest.MonkeyPatch, problem: Exception | type[Exception]
) -> None:
    """A campaign whose last score waits for ever for a machine that does not come back; or goes without a score for one death."""
    monkeypatch.setattr(scoring, "remove_placement_group", lambda group: None)
    monkeypatch.setattr(Team, "room", lambda team: f"room for {team.size}")
    resources, state = ResourcesSection(workers_per_trial=2), scorings.coordinator.state
    scorings.config = fakes.campaign(resources={"workers_per_trial": 2})
    scorings.machines = Machines(resources, machines_of(resources, 1.0, 1.0))
    scorings.start(state, scorings.machines.room.places, alone=True)
    assert [one.group for one in scorings.running.values()] == ["room for 2"]
    end(scorings, monkeypatch, lambda place: problem if isinstance(problem, Exception) else problem())
    assert (scorings.running, scorings.failures, state.tests) == ({}, {}, {})
    scorings.machines.room = machines_of(resources, 1.0)
    assert scorings.machines.room.places == 0, "there is no room for a trial"
    scorings.start(state, 0, alone=False)
    assert scorings.running == {}
    for _ in range(2):
        scorings.start(state, 0, alone=True)
        assert [one.group for one in scorings.running.values()] == [None]
    scorings.running.clear()
    scorings.machines.room = machines_of(resources)
    scorings.start(state, 0, alone=True)
    assert scorings.running == {}, "no machine is left"


def machines_of(resources: ResourcesSection, *cpus: float) -> Room:
    """The room on machines of so many CPUs."""
    each = tuple({"CPU": one} for one in cpus)
    return Room(capacity(resources, sum(cpus), 0.0), sum(cpus), 0.0, max(cpus, default=0.0), each)


def test_scoring_whose_processes_keep_dying_is_given_up(scorings: Scorings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "remove_placement_group", lambda group: None)
    monkeypatch.setattr(Team, "room", lambda team: "room")
    scorings.config = fakes.campaign(resources={"workers_per_trial": 2})
    scorings.machines = Machines(ResourcesSection(workers_per_trial=2), Room(1, 4.0, 0.0, 4.0, ({"CPU": 4.0},)))
    places = []
    for _ in range(3):
        scorings.start(scorings.coordinator.state, 1)
        places += [one.place for one in scorings.running.values()]
        end(scorings, monkeypatch, lambda place: ProcessError("one of 2 processes died"))
    assert places == [("main", 0)] * 3
    assert list(scorings.failures) == [("main", 0)]


def test_error_that_is_no_death_is_not_tried_again(scorings: Scorings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the program, three times over."""
    monkeypatch.setattr(scoring, "remove_placement_group", lambda group: None)
    monkeypatch.setattr(Team, "room", lambda team: "room")
    scorings.config = fakes.campaign(resources={"workers_per_trial": 2})
    scorings.machines = Machines(ResourcesSection(workers_per_trial=2), Room(1, 4.0, 0.0, 4.0, ({"CPU": 4.0},)))
    scorings.start(scorings.coordinator.state, 1)
    end(scorings, monkeypatch, lambda place: RayTaskError("together", "Traceback\nKeyError: 3", KeyError(3)))
    assert list(scorings.failures) == [("main", 0)]


def test_scoring_whose_machine_is_lost_does_not_wait_for_another_like_it(
    scorings: Scorings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task with more CPUs than any machine has is begun again by Ray, and waits for ever: the campaign does not end, and nobody says why."""
    cancelled: list[Any] = []
    monkeypatch.setattr(scoring.ray, "cancel", cancelled.append)
    resources, state = ResourcesSection(), scorings.coordinator.state
    scorings.studies["main", 0].cpus = 8.0  # type: ignore[misc]
    scorings.machines.room = machines_of(resources, 2.0, 8.0)
    scorings.start(state, 8, alone=True)
    [big] = scorings.running
    assert scorings.running[big].cpus == 8.0
    scorings.start(state, 0, alone=True)
    assert (list(scorings.running), cancelled) == ([big], [])
    scorings.machines.room = machines_of(resources, 2.0)
    scorings.start(state, 0, alone=True)
    assert cancelled == [big]
    assert [(one.place, one.cpus) for one in scorings.running.values()] == [(("main", 0), 2.0)]


def test_scores_are_left_until_they_are_there_or_given_up(scorings: Scorings) -> None:
    """A campaign that ends for the failure of one, before machines are there for the others."""
    state = scorings.coordinator.state
    assert scorings.left(state)
    scorings.failures = {("main", grade): ScoringError("no") for grade in (0, 1)}
    assert scorings.left(state)
    state.tests["main", 2] = {"mrr": 1.0}
    assert not scorings.left(state)


def test_room_of_what_is_cancelled_is_given_back(scorings: Scorings, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster that goes on after the campaign."""
    given_back: list[Any] = []
    monkeypatch.setattr(scoring, "remove_placement_group", given_back.append)
    monkeypatch.setattr(scoring.ray, "cancel", lambda reference: None)
    scorings.running["first"] = Scoring(("main", 0), "/run/0", 1, 1.0, "room")  # type: ignore[arg-type]
    scorings.running["second"] = Scoring(("main", 1), "/run/1", 1, 1.0)
    scorings.cancel()
    assert (given_back, scorings.running) == (["room"], {})


def test_what_cannot_be_scored_is_kept_for_the_end(scorings: Scorings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign that ends in the middle of its training, on every --resume, because a model of the first grade does not fit; or that asks again
    for ever."""
    state = scorings.coordinator.state
    outcomes = {
        ("main", 0): OutOfMemoryError("the ranking did not fit"),
        ("main", 1): WorkerCrashedError(),
        ("main", 2): {"mrr": 1.0},
    }
    for _ in range(3):
        scorings.start(state, 2)
        end(scorings, monkeypatch, outcomes.__getitem__)
    assert state.tests == {("main", 2): {"mrr": 1.0}}
    assert sorted(scorings.failures) == [("main", 0), ("main", 1)]
    error = scorings.failures["main", 0]
    assert error.received == "main, grade 0-x: no score on the test split: the ranking did not fit"
    assert "raydistill evaluate /run/0 --data nowhere" in error.remedy
    assert scorings.failures["main", 1].received.startswith("main, grade 1-x: ")


def test_scoring_sets_the_threads_it_is_given(tmp_path: Path) -> None:
    """The threads of the process's last task, and with them other last bits from run to run."""
    threads: list[int] = []
    shop = SimpleNamespace(
        set_threads=threads.append,
        world=lambda shared: fakes.Ranks(0, 2 if shared else 1),
        checkpoint_facts=lambda path: {"layers": 3, "parameters": 10, "bytes": 20, "view": "shared"},
        test_metrics=lambda path, config, world: {"test/both/mrr": 0.5 * world.size},
    )
    found = score(str(tmp_path), fakes.campaign(), shop, 3)  # type: ignore[arg-type]
    assert found == {"test/both/mrr": 0.5, "layers": 3.0, "parameters": 10.0, "bytes": 20.0}
    assert score(str(tmp_path), fakes.campaign(), shop, 2, shared=True)["test/both/mrr"] == 1.0  # type: ignore[arg-type]
    assert threads == [3, 2]


def test_ladder_that_cannot_be_scored_does_not_end_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of a week that stops for good at one ladder whose model is too large for the machine."""

    class Unscored:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.store = SimpleNamespace(read=lambda name: None)

        def run(self, **_: Any) -> CampaignState:
            raise ScoringError("main, grade 1-x: no score on the test split: the ranking did not fit")

    monkeypatch.setattr(ladder_search, "Campaign", Unscored)
    ladders = {"ladders": 1, "grades": [1, 1], "depths": [1], "mask_ratios": [0.1], "layer_maps": ["skip"]}
    config = fakes.campaign(ladders={**ladders, "alphas": [0.1], "betas": [0.1]}, grades=[{"layers": 6}])
    search = LadderSearch(config, tmp_path, fakes.workshop())
    point = ladder_search.next_ladder(config, [])
    assert point is not None
    ended = search._run_ladder(0, point, lambda: None, lambda number, state: None)
    assert not ended.values
    assert "did not fit" in ended.reason
    record = SearchRecord(config, search.store)
    record.end(0, *ended)
    [result] = record.results
    assert result.values == {}
    assert "did not fit" in result.reason
