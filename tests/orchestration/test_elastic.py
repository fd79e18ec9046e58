"""How many workers a trial's runs have, without Ray: what is free on the machines, and how runs end, are played."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import pytest
import ray.train
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from raydistill.errors import TeacherError
from raydistill.orchestration import elastic
from raydistill.orchestration.backend import NoticingBackend, NoticingConfig
from raydistill.orchestration.elastic import GROW_SECONDS, LOOK_SECONDS, WorkerRuns
from raydistill.orchestration.fitting import Ended, scaling
from raydistill.orchestration.study import Study
from raydistill.planning.grades import grade_plans, lineages_of

KEY, NEXT = ("main", 0, 0), ("main", 0, 1)
Played = Callable[..., WorkerRuns]


def study(workers: int = 4, **resources: Any) -> Study:
    config = fakes.campaign(resources={"workers_per_trial": {"min": 1, "max": 4}, **resources})
    ground = fakes.ground(config)
    plan = grade_plans(config, ground)[0]
    return Study(config, ground, lineages_of(config)[0], plan, None, Path("/nowhere"), cpus=1.0, workers=workers)


class Scene:
    """Plays the cluster, Ray Train and the coordinator.

    Args:
        free: CPUs free on the one machine, at each look; the last one stays.
        ends: how each run ends: True = interrupted, False = over, an error, or a function that says so.
    """

    def __init__(self, free: list[float], ends: list[Any]) -> None:
        self.free, self.ends, self.now = list(free), list(ends), 0.0
        self.runs: list[int] = []
        self.keys: list[Any] = []
        self.entered: list[Any] = []
        self.given: list[Any] = []
        self.halted, self.stays = 0, True
        self.left: set[Any] = set()

    def machines(self) -> list[dict[str, float]]:
        return [{"CPU": self.free.pop(0) if len(self.free) > 1 else self.free[0]}]

    def fit(self, study: Study, key: Any, coordinator: Any, workshop: Any, folder: Path, workers: int) -> Ended:
        self.runs.append(workers)
        self.keys.append(key)
        end = self.ends.pop(0)
        if callable(end):
            end = end()
        if isinstance(end, BaseException):
            raise end
        return end if isinstance(end, Ended) else Ended(key, end)

    def hand_over(self, ended: Any, following: Any) -> bool:
        if following is not None:
            self.given.append(following)
        return self.stays

    def has_left(self, key: Any) -> bool:
        told = key in self.left
        self.left.discard(key)
        return told

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Callable[..., WorkerRuns]:
    """The runs of a trial in a scene."""

    def play(scene: Scene, one: Study | None = None) -> WorkerRuns:
        coordinator = SimpleNamespace(
            enter=SimpleNamespace(remote=scene.entered.append),
            hand_over=SimpleNamespace(remote=scene.hand_over),
            left=SimpleNamespace(remote=scene.has_left),
            goes_on=SimpleNamespace(remote=lambda key: True),
            halt=SimpleNamespace(remote=lambda key: setattr(scene, "halted", scene.halted + 1)),
        )
        monkeypatch.setattr(elastic, "ask", lambda answer: answer)
        monkeypatch.setattr(elastic, "fit", scene.fit)
        monkeypatch.setattr(elastic, "free_machines", scene.machines)
        monkeypatch.setattr(elastic, "time", SimpleNamespace(monotonic=lambda: scene.now, sleep=scene.sleep))
        monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1800")
        return WorkerRuns(one or study(), KEY, coordinator, fakes.workshop(), Path("/nowhere"))

    return play


def lost() -> BaseException:
    return ray.train.WorkerGroupError("a worker died", {0: RuntimeError()})


def too_late() -> BaseException:
    return ray.train.ControllerError(WorkerGroupStartupTimeoutError(4))


def test_trial_goes_on_with_as_many_workers_as_are_left(played: Played) -> None:
    """A trial that waits for the machine that was lost, or gives up."""
    scene = Scene([4, 2], [lost(), False])
    runs = played(scene)
    runs.run()
    assert scene.runs == [4, 2]
    assert runs.problem is None


def test_trial_waits_a_moment_for_the_room_of_the_one_before_it(played: Played) -> None:
    """A trial with one worker on four machines, because the one before it was just leaving."""
    scene = Scene([0, 1, 4], [False])
    played(scene).run()
    assert scene.runs == [4]


def test_trial_asks_for_the_least_where_there_is_no_room(played: Played) -> None:
    """A cluster that grows on demand never hears of the demand."""
    scene = Scene([0], [False])
    played(scene, study(workers_per_trial={"min": 2, "max": 4})).run()
    assert scene.runs == [2]


def test_machine_that_is_still_on_the_books_costs_no_failure(played: Played) -> None:
    """A lost machine is counted for half a minute more: the trial would count its vain starts as deaths, and fail."""
    scene = Scene([4, 4, 4, 4, 2], [lost(), too_late(), too_late(), too_late(), False])
    runs = played(scene, study(max_failures=1))
    runs.run()
    assert scene.runs == [4, 4, 4, 3, 2]
    assert runs.problem is None


def test_room_that_is_counted_but_not_there_is_asked_for_no_more(played: Played) -> None:
    """Half a GPU on each of two machines is none for a worker that needs a whole one: the trial would start in vain for ever."""
    scene = Scene([4], [too_late(), too_late(), too_late(), too_late(), too_late(), False])
    played(scene, study(workers_per_trial={"min": 2, "max": 4})).run()
    assert scene.runs == [4, 4, 3, 2, 2, 2]


def test_trial_whose_workers_keep_dying_is_given_up(played: Played) -> None:
    """A trial that starts for ever."""
    scene = Scene([4], [lost(), lost(), lost(), False])
    runs = played(scene, study(max_failures=1))
    runs.run()
    assert scene.runs == [4, 4]
    assert isinstance(runs.problem, ray.train.WorkerGroupError)


def test_damaged_teacher_is_no_failure_of_its_students(played: Played) -> None:
    """A trial would be given up for what somebody else's files suffered; its workers end only to begin again under another teacher."""
    untaught = ray.train.WorkerGroupError(
        "a worker left", {0: RuntimeError("connection closed"), 1: TeacherError("damaged")}
    )
    scene = Scene([4], [untaught, untaught, untaught, False])
    runs = played(scene, study(max_failures=0))
    runs.run()
    assert len(scene.runs) == 4
    assert runs.problem is None


def test_interrupted_trial_is_no_failed_one(played: Played) -> None:
    """A trial that was preempted three times counts as failed."""
    scene = Scene([4], [True, True, True, True, False])
    runs = played(scene, study(max_failures=0))
    runs.run()
    assert len(scene.runs) == 5
    assert (runs.problem, runs.halted) == (None, False)


def test_trial_that_saved_before_its_machine_went_did_not_fail(played: Played) -> None:
    """A step of a minute, on a machine that is taken half a minute after it was told: all is saved, and the trial is given up."""
    scene = Scene([4], [])

    def saves_and_is_lost() -> BaseException:
        scene.left.add(KEY)
        return lost()

    scene.ends = [saves_and_is_lost, saves_and_is_lost, False]
    runs = played(scene, study(max_failures=0))
    runs.run()
    assert len(scene.runs) == 3
    assert runs.problem is None


def test_word_of_one_run_excuses_no_death_of_the_next(played: Played) -> None:
    """A trial that saved, left as it was told to, and dies later of what it always dies of."""
    scene = Scene([4], [])

    def saves_and_ends() -> bool:
        scene.left.add(KEY)
        return True

    scene.ends = [saves_and_ends, lost(), False]
    runs = played(scene, study(max_failures=0))
    runs.run()
    assert len(scene.runs) == 2
    assert isinstance(runs.problem, ray.train.WorkerGroupError)


def test_word_of_a_process_that_ends_is_left_for_its_search(played: Played) -> None:
    """The process was told to end, and said that it leaves: heard by its own runs, the search would count its end as a death."""
    scene = Scene([4], [])

    def ends_with_its_process() -> BaseException:
        runs.last = True
        scene.left.add(KEY)
        return lost()

    scene.ends = [ends_with_its_process]
    runs = played(scene, study(max_failures=0))
    runs.run()
    assert scene.left == {KEY}


def test_workers_that_left_before_they_took_the_next_trial_up_are_replaced(played: Played) -> None:
    """A coordinator that was started again knows of no next trial: it would be taken for one whose workers ended without a word, and fail."""
    scene = Scene([4], [])

    def leave() -> Ended:
        assert runs.hand_over(study(), NEXT)
        return Ended(KEY, False)

    scene.ends = [leave, False]
    runs = played(scene)
    runs.run()
    assert scene.keys == [KEY, NEXT]
    assert (runs.problem, runs.halted) == (None, False)


def test_workers_are_told_whose_trial_follows(played: Played) -> None:
    """A trial of the grade below, trained as one of the grade above."""
    scene, below = Scene([4], []), study(workers=3)

    def leave() -> Ended:
        assert runs.hand_over(below, NEXT)
        return Ended(KEY, False)

    scene.ends = [leave, False]
    runs = played(scene)
    runs.run()
    assert scene.given == [(NEXT, below)]
    assert scene.runs == [4, 3], "whoever takes the place of workers that are gone is of the new study, too"


def test_next_trial_is_not_given_to_workers_that_are_gone(played: Played) -> None:
    """A trial that nobody works on, waited for without end."""
    scene = Scene([4], [False])
    scene.stays = False
    runs = played(scene)
    assert not runs.hand_over(study(), NEXT)
    assert runs.key == KEY


@pytest.mark.parametrize("failures", [0, 5])
def test_trial_given_to_workers_that_have_just_died_gets_others(
    played: Played, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """A trial handed over in the moment in which nobody is there any more would wait for ever."""
    scene = Scene([4], [lost(), False])
    runs = played(scene, study(max_failures=failures))

    def goes_on(key: Any) -> bool:
        if key == KEY:
            assert runs.hand_over(study(), NEXT)
        return key != KEY

    monkeypatch.setattr(runs.coordinator, "goes_on", SimpleNamespace(remote=goes_on))
    if failures:
        runs.run()
        assert scene.keys == [KEY, NEXT]
        assert (runs.problem, runs.halted) == (None, False)
    else:
        runs.run()
        assert isinstance(runs.problem, ray.train.WorkerGroupError)
        assert not runs.hand_over(study(), NEXT)


def test_deaths_are_counted_for_each_trial(played: Played) -> None:
    """A trial given up because the workers it was handed had died under the ones before."""
    scene = Scene([4], [])

    def die_under_the_next() -> BaseException:
        runs.hand_over(study(), NEXT)
        return lost()

    scene.ends = [lost(), die_under_the_next, False]
    runs = played(scene, study(max_failures=1))
    runs.run()
    assert scene.keys == [KEY, KEY, NEXT]
    assert runs.problem is None


def test_trial_grows_once_there_has_been_room_for_a_while(played: Played) -> None:
    """A machine that comes back stays idle; or a trial that starts again every few seconds, because another one is changing processes."""
    scene = Scene([2], [False])
    runs = played(scene)
    runs.run()
    assert runs.workers == 2
    looks = {}
    for room in (0, 1, 0, 1, 1):
        scene.now += GROW_SECONDS if not looks else LOOK_SECONDS
        scene.free = [room]
        runs.look()
        looks[scene.now] = scene.halted
    assert list(looks.values()) == [0, 0, 0, 0, 1]


def test_trial_with_a_fixed_number_never_looks(played: Played) -> None:
    """A trial of two workers, ended again and again because there is room for two more."""
    scene = Scene([0], [False])
    runs = played(scene, study(workers=2, workers_per_trial=2))
    runs.run()
    assert scene.runs == [2]
    scene.free, scene.now = [8], 1000.0
    runs.look()
    runs.look()
    assert scene.halted == 0


@pytest.mark.parametrize("placement", ["pack", "strict_pack", "spread"])
def test_ray_is_told_where_workers_may_run_and_what_they_get(placement: str) -> None:
    """Workers of one trial on machines far apart, each exchange over the network; or a whole GPU for each of two that share one."""
    given = scaling(study(placement=placement, gpus_per_worker=0.5), 2)
    assert given.placement_strategy == placement.upper()
    assert (given.num_workers, given.use_gpu) == (2, True)
    assert given.resources_per_worker == {"CPU": 1.0, "GPU": 0.5}


def test_ray_starts_workers_that_hear_sigterm() -> None:
    """Ray's own workers end at once."""
    assert NoticingConfig("gloo").backend_cls is NoticingBackend
