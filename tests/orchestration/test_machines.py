"""How a campaign follows the machines of its cluster, and how it tells that the head is gone: without a cluster."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import RpcError
from ray.util import placement_group, remove_placement_group

from raydistill.config.schema import ResourcesSection
from raydistill.errors import ClusterError
from raydistill.orchestration import losses, machines, runners
from raydistill.orchestration.machines import Machines, Room
from raydistill.orchestration.room import Request, free_orphaned_room, requests_for_room
from raydistill.orchestration.runners import Job
from raydistill.orchestration.searcher import Allowance, StudySearcher


def node(cpus: float, alive: bool = True, name: str = "") -> dict[str, Any]:
    return {"Alive": alive, "NodeID": name, "Resources": {"CPU": cpus}}


class FakeNodes:
    """What Ray says of its machines."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, Any]) -> None:
        self.nodes, self.leaving = list(nodes), set[str]()
        monkeypatch.setattr(machines.ray, "nodes", lambda: self.nodes)
        monkeypatch.setattr(machines, "leaving_machines", lambda: self.leaving)


def test_room_is_what_living_machines_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials for CPUs that are gone would wait; and Ray lists the machines it lost for ever."""
    FakeNodes(monkeypatch, node(2), node(4), node(8, alive=False))
    assert machines.room_of(ResourcesSection()) == Room(6, 6.0, 0.0, 4.0)


def test_machine_that_is_about_to_go_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials for CPUs on which Ray begins nothing any more would wait until the machine is gone."""
    nodes = FakeNodes(monkeypatch, node(2, name="stays"), node(4, name="goes"))
    nodes.leaving.add("goes")
    assert machines.room_of(ResourcesSection()) == Room(2, 2.0, 0.0, 2.0)


def test_nothing_is_free_on_a_machine_that_is_about_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that saved and ended because of it would begin there again, and wait until it is gone."""
    monkeypatch.setattr(machines, "available_resources_per_node", lambda: {"goes": {"CPU": 4.0}, "stays": {"CPU": 1.0}})
    monkeypatch.setattr(machines, "leaving_machines", lambda: {"goes"})
    assert machines.free_machines() == [{"CPU": 1.0}]


def test_head_that_is_slow_to_answer_loses_no_machine_and_no_campaign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is lost is asked elsewhere, with more patience."""
    FakeNodes(monkeypatch, node(2), node(4))

    def late() -> set[str]:
        raise RpcError("deadline exceeded")

    monkeypatch.setattr(machines, "leaving_machines", late)
    assert machines.room_of(ResourcesSection()).cpus == 6.0


def test_only_what_came_is_given_to_running_studies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that went and came back would be given away twice; a new one never."""
    nodes = FakeNodes(monkeypatch, node(1), node(1))
    followed = Machines(ResourcesSection(), machines.room_of(ResourcesSection()))
    assert not followed.look()
    nodes.nodes[1]["Alive"] = False
    assert followed.look()
    assert (followed.room.places, followed.added()) == (1, 0)
    nodes.nodes += [node(1), node(2)]
    assert followed.look()
    assert (followed.room.places, followed.added(), followed.added()) == (4, 3, 0)


def test_lost_machine_changes_no_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over another number of threads have other last bits: the next grade would promote another checkpoint."""
    nodes = FakeNodes(monkeypatch, node(2), node(2))
    followed = Machines(ResourcesSection(), machines.room_of(ResourcesSection()))
    before = followed.share(2)
    nodes.nodes.pop()
    assert followed.look()
    assert followed.share(2) == before == (1, 2.0)
    nodes.nodes[0] = node(1)
    assert followed.look()
    assert followed.share(2) == (1, 1.0)


def test_campaigns_beside_each_other_divide_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ladders at once would each ask for the whole machine, and wait for each other; or the teacher that all wait for would train on a part of it."""
    FakeNodes(monkeypatch, node(8))
    room = machines.room_of(ResourcesSection())
    apart, shared = Machines(ResourcesSection(), room, beside=4), Machines(ResourcesSection(), room, 4, alone=(0,))
    assert [apart.share(1, grade) for grade in (0, 1)] == [(1, 2.0), (1, 2.0)]
    assert [shared.share(1, grade) for grade in (0, 1)] == [(1, 8.0), (1, 2.0)]
    assert [shared.divided(*each) for each in ((8.0, 0), (3.0, 0), (2.0, 1))] == [2.0, 1.0, 2.0]
    assert [apart.divided(2.0, 0), Machines(ResourcesSection(), room, alone=(0,)).divided(8.0, 0)] == [2.0, 8.0]


def test_nobody_asks_for_more_cpus_than_a_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The score of a model that was trained on a machine which was lost: its task would wait for one of that size for ever."""
    nodes = FakeNodes(monkeypatch, node(4), node(2), node(1))
    followed = Machines(ResourcesSection(), machines.room_of(ResourcesSection()))
    assert [followed.within(cpus) for cpus in (1.0, 4.0, 7.0)] == [1.0, 4.0, 4.0]
    nodes.nodes[0]["Alive"] = False
    assert followed.look()
    assert [followed.within(cpus) for cpus in (1.0, 4.0, 7.0)] == [1.0, 2.0, 2.0]
    asked = ResourcesSection(cpus_per_worker=3)
    assert Machines(asked, machines.room_of(asked)).within(3.0) == 3.0


def test_cluster_without_a_machine_for_trials_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head without CPUs whose only worker is lost: a division by zero would end the campaign."""
    nodes = FakeNodes(monkeypatch, node(0), node(1))
    followed = Machines(ResourcesSection(), machines.room_of(ResourcesSection()))
    nodes.nodes.pop()
    assert followed.look()
    assert (followed.room.places, followed.weight(1.0, 1)) == (0, 1)


@dataclass(frozen=True)
class FakeStudy:
    concurrency: int = 1
    limit: int = 3
    place: tuple[str, int] = ("main", 1)


@dataclass
class FakeRunner:
    """An actor whose one method is called as Ray's are."""

    told: list[tuple[tuple[str, int], int]] = field(default_factory=list)

    @property
    def allow(self) -> Any:
        return self

    def remote(self, place: tuple[str, int], trials: int) -> None:
        self.told.append((place, trials))


class Handle:
    """A process of studies, as Ray gives it."""

    def __init__(self) -> None:
        self.gone, self.let_go = 0, self

    def remote(self) -> None:
        self.gone += 1


@pytest.mark.parametrize("spare", [False, True])
def test_processes_that_no_study_follows_in_are_let_go(monkeypatch: pytest.MonkeyPatch, spare: bool) -> None:
    """Their room would be kept from whoever comes next; or the grade below would be given a cold one while a warm one is sent away."""
    monkeypatch.setattr(runners.Runners, "_start", lambda self: Handle())
    pool = runners.Runners(spare)
    first, second = pool.take(), pool.take()
    pool.put(first)
    pool.put(second)
    assert pool.take() is second
    pool.let_go()
    assert (first.gone, second.gone) == (1, 0)
    pool.let_go()
    assert first.gone == 1, "once is enough"
    pool.put(second)
    pool.let_go()
    assert second.gone == 1


@pytest.mark.parametrize(("busy", "at_once", "asked"), [(0, False, 2), (1, False, 1), (0, True, 0)])
def test_idle_processes_end_those_of_their_trials_before_they_are_killed(
    monkeypatch: pytest.MonkeyPatch, busy: int, at_once: bool, asked: int
) -> None:
    """The CPUs of a process that outlives who made its room stay taken, on a cluster that goes on; or a second Ctrl-C is needed."""
    told, killed = list[Any](), list[Any]()
    monkeypatch.setattr(runners.Runners, "_start", lambda self: self._all.append(Ending()) or self._all[-1])
    monkeypatch.setattr(runners.ray, "wait", lambda waited, **_: told.extend(waited))
    monkeypatch.setattr(runners.ray, "kill", killed.append)
    pool = runners.Runners(spare=False)
    both = [pool.take(), pool.take()]
    # One whose study raised was not put back.
    pool.put(both[0])
    pool.stop(both[:busy], at_once=at_once)
    assert told == both[busy : busy + asked]
    assert killed == both


class Ending:
    """A process of studies that may be asked to end those of its trials."""

    def __init__(self) -> None:
        self.end = self

    def remote(self) -> Ending:
        return self


def test_study_grows_no_further_than_its_trials() -> None:
    """Places that a study cannot use would be kept from the next one."""
    runner = FakeRunner()
    job = Job(FakeStudy(), runner, 2)  # type: ignore[arg-type]
    assert job.grow(1, 2) == 0
    assert job.grow(20, 2) == 4
    assert (job.places, job.study.concurrency, runner.told) == (6, 3, [(("main", 1), 3)])
    assert job.grow(20, 2) == 0


@pytest.mark.parametrize(
    ("asked", "has"),
    [
        ({}, {"CPU": 2.0}),
        ({"gpus_per_worker": 1}, {"CPU": 8.0}),
        ({"workers_per_trial": 2, "placement": "strict_pack"}, {"CPU": 4.0}),
    ],
)
def test_trials_that_no_machine_has_room_for_are_told_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, asked: dict[str, Any], has: dict[str, float]
) -> None:
    """A campaign that waits for ever for a GPU looks like one that trains; one word at its start is out of sight after a night."""
    nodes, resources = FakeNodes(monkeypatch, {**node(0), "Resources": has}), ResourcesSection(**asked)
    followed, waiting = Machines(resources, machines.room_of(resources)), runners.Waiting()
    study = SimpleNamespace(title="main, grade 1-6-layers", cpus=4.0)
    monkeypatch.setattr(runners, "requests_for_room", lambda: [])
    caplog.set_level(logging.WARNING, logger="raydistill")
    job, done = Job(study, None, 1), Job(study, None, 0)  # type: ignore[arg-type]
    said = []
    for moment in (0.0, 1.0, runners.AGAIN_SECONDS + 1, runners.AGAIN_SECONDS + 2):
        monkeypatch.setattr(runners.time, "monotonic", lambda moment=moment: moment)
        waiting.look([done, job], followed)
        said.append(len(caplog.messages))
    assert said == [1, 1, 2, 2]
    assert caplog.messages[0].startswith("main, grade 1-6-layers: the cluster's machines have no room for a trial (")
    nodes.nodes.append({**node(0), "Resources": {"CPU": 8.0, "GPU": 1.0}})
    followed.look()
    waiting.look([job], followed)
    assert len(caplog.messages) == 2
    nodes.nodes.pop()
    followed.look()
    waiting.look([job], followed)
    assert len(caplog.messages) == 3, "another wait is told at once"


def request(name: str, *, waits: bool, workers: int = 1, cpus: float = 2.0, gpus: float = 0.0) -> Request:
    return Request(name, ({"CPU": cpus, **({"GPU": gpus} if gpus else {})},) * workers, waits)


TRAINS, WAITS = request("a", waits=False), request("b", waits=True)


@pytest.mark.parametrize(
    ("asked", "free", "said"),
    [
        ([TRAINS, WAITS], {"CPU": 1.0}, True),
        ([request("b", waits=True, workers=2)], {"CPU": 2.0}, True),
        ([request("b", waits=True, cpus=1.0, gpus=1.0)], {"CPU": 8.0, "GPU": 0.0}, True),
        # A trial that has its room trains, whatever others use, and however long nothing is heard of it.
        ([TRAINS], {"CPU": 0.0}, False),
        # Its own trials wait for each other after the loss of a machine, which is told elsewhere.
        ([TRAINS, request("c", waits=False, cpus=6.0), WAITS], {"CPU": 0.0}, False),
        # The GPU that others use is none that it waits for.
        ([request("c", waits=False, cpus=8.0), WAITS], {"CPU": 0.0, "GPU": 0.0}, False),
    ],
    ids=["others", "parts of it are free", "a GPU", "trains", "its own", "not a GPU"],
)
def test_trials_that_wait_for_others_are_told_of_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: list[Request],
    free: dict[str, float],
    said: bool,
) -> None:
    """The ledger calls it running, and for days nothing happens; or a word on every trial that takes long."""
    FakeNodes(monkeypatch, {**node(0), "Resources": {"CPU": 8.0, "GPU": 1.0}})
    free = {"GPU": 1.0, **free}
    caplog.set_level(logging.WARNING, logger="raydistill")
    resources = ResourcesSection()
    followed, waiting = Machines(resources, machines.room_of(resources)), runners.Waiting()
    monkeypatch.setattr(runners, "requests_for_room", lambda: asked)
    monkeypatch.setattr(runners, "free_machines", lambda: [free])

    def told(moment: float) -> int:
        monkeypatch.setattr(runners.time, "monotonic", lambda: 1000.0 + moment)
        waiting.look([], followed)
        return len(caplog.messages)

    late = runners.PATIENCE_SECONDS
    assert [told(0.0), told(late - 1)] == [0, 0]
    assert [told(late + 10), told(late + 60), told(late + 20 + runners.AGAIN_SECONDS)] == (
        [1, 1, 2] if said else [0] * 3
    )
    if said:
        assert caplog.messages[0].startswith(
            "others use the cluster: 1 of the campaign's trials wait for room, the first ("
        )
        assert "lower resources.cpus_per_worker or resources.workers_per_trial" in caplog.messages[0]
        # It found room, and another one begins to wait.
        asked[:] = [asked[-1]._replace(name="z")]
        again = late + 40 + runners.AGAIN_SECONDS
        assert [told(again), told(again + late - 20), told(again + late + 10)] == [2, 2, 3]


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("scores", [True, False])
def test_what_the_campaign_has_itself_is_not_taken_for_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lost: bool, scores: bool
) -> None:
    """After the loss of a machine a trial waits that still has the rest of its room, beside a score that asked for none: users that nobody else sees would be blamed."""
    nodes = FakeNodes(monkeypatch, node(6), node(2))
    resources = ResourcesSection()
    followed, waiting = Machines(resources, machines.room_of(resources)), runners.Waiting()
    asked = [request("a", waits=not lost, workers=2)]
    monkeypatch.setattr(runners, "requests_for_room", lambda: asked)
    monkeypatch.setattr(runners, "free_machines", lambda: [{"CPU": 0.0}])
    caplog.set_level(logging.WARNING, logger="raydistill.orchestration.runners")
    beside = [{"CPU": 4.0, "GPU": 0.0}] if scores else []

    def look(moment: float) -> int:
        monkeypatch.setattr(runners.time, "monotonic", lambda: 1000.0 + moment)
        waiting.look([], followed, beside)
        return len(caplog.messages)

    assert look(0.0) == 0
    nodes.nodes[1]["Alive"] = False
    followed.look()
    # Of its two parts one is left, on the machine that is left, and of the others' six CPUs four are a score's.
    asked[:] = [request("a", waits=True, workers=2)]
    look(20.0)
    assert look(20.0 + runners.PATIENCE_SECONDS) == (not (lost and scores))


@pytest.mark.ray
def test_room_that_is_waited_for_is_told_from_room_that_is_had(cluster: None) -> None:
    """Another Ray may keep its books otherwise, and a campaign that waits would pass for one that trains."""

    actor: Any = ray.remote(num_cpus=0)(Asking).remote()
    has, waits = ray.get([actor.ask.remote(0.5, 60), actor.ask.remote(100.0, 2)])
    own = placement_group([{"CPU": 100.0}])
    try:
        found = {one.name: one for one in requests_for_room()}
        assert found[has] == Request(has, ({"CPU": 0.5}, {"CPU": 0.5}), False)
        assert found[waits] == Request(waits, ({"CPU": 100.0}, {"CPU": 100.0}), True)
        assert not found[own.id.hex()].waits
        assert free_orphaned_room() == 0
        ray.kill(actor)
        deadline = time.monotonic() + 90
        freed = 0
        while freed < 2 and time.monotonic() < deadline:
            freed += free_orphaned_room()
            time.sleep(0.2)
        assert freed == 2
    finally:
        # Whatever failed, other tests have this cluster after it.
        ray.kill(actor)
        remove_placement_group(own)


class Asking:
    """A process that asks for room."""

    def ask(self, cpus: float, seconds: float) -> str:
        group = placement_group([{"CPU": cpus}] * 2)
        group.wait(seconds)
        return str(group.id.hex())


class Endless:
    """A proposer that always has a next trial."""

    def __init__(self) -> None:
        self.given = 0

    def next(self) -> int:
        self.given += 1
        return self.given


def test_searcher_gives_as_many_trials_as_are_allowed_at_the_moment() -> None:
    """Tune's own limit stands as it was when the study began."""
    allowance = Allowance(1)
    searcher = StudySearcher(Endless(), 0, allowance)  # type: ignore[arg-type]
    assert searcher.suggest("a") == {"number": 0}
    assert searcher.suggest("b") is None
    allowance.trials = 2
    assert searcher.suggest("b") == {"number": 1}
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a")
    assert searcher.suggest("c") == {"number": 2}


def test_head_that_is_gone_for_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that restarts must not end the campaign; one that is gone must, with a word on how to go on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        head = losses.Head(f"127.0.0.1:{server.getsockname()[1]}")
        assert head.check()
        head.require()
    assert not head.check()
    monkeypatch.setattr(losses, "LOST_SECONDS", 0.0)
    with pytest.raises(ClusterError, match="does not answer any more") as caught:
        head.check()
    assert head.lost is caught.value
    assert "--resume" in caught.value.remedy


def test_silence_of_a_head_is_counted_in_looks_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stood still for a minute looks once or twice, while the network is down for a second, and would end with all it learnt."""
    now, answers = [0.0], [False]

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        now[0] += timeout
        if not answers[0]:
            raise TimeoutError
        return socket.socket()

    monkeypatch.setattr(losses, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(losses, "socket", SimpleNamespace(create_connection=connect))
    head = losses.Head("127.0.0.1:1")
    assert head.silent() == 0.0
    silences = []
    for pause in (60.0, 2.0, 60.0, 2.0):
        now[0] += pause
        assert not head.answers()
        silences.append(head.silent())
    assert silences == [3.0, 8.0, 14.0, 19.0]
    answers[0] = True
    assert (head.answers(), head.silent()) == (True, 0.0)


WAITING = """
import socket, threading, time
from raydistill.orchestration import losses
losses.LOST_SECONDS = losses.LEAVE_SECONDS = losses.LOOK_SECONDS = 0.1
with socket.create_server(("127.0.0.1", 0)) as server:
    head = losses.Head(f"127.0.0.1:{server.getsockname()[1]}")
threading.Thread(target=head.watch, daemon=True).start()
time.sleep(60)
"""


def test_process_that_waits_for_a_head_that_is_gone_is_ended_with_a_reason() -> None:
    """Ray ends it after a minute with code 1 and a line of C++."""
    done = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 5
    assert done.stderr.startswith("error: the head of the Ray cluster")
    assert "--resume" in done.stderr
