"""A campaign that begins before the machines of its cluster have joined, without a cluster."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import pytest
import torch
from ray.exceptions import GetTimeoutError, RayActorError

from raydistill.config.resources import ResourcesSection
from raydistill.errors import RoomError
from raydistill.orchestration import idle, joining, machines, together
from raydistill.orchestration.campaign import Campaign
from raydistill.orchestration.machines import Machines
from raydistill.planning.places import backend_of

TWO_WITH_GPUS = ResourcesSection(workers_per_trial=2, gpus_per_worker=1, placement="spread")


class FakeCluster:
    """A head without CPUs; a machine comes with every look that somebody who has asked for room takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, grows: bool = True) -> None:
        self.machines = [{"Alive": True, "NodeID": "", "Resources": {"CPU": 0.0}}]
        self.asked: list[tuple[list[dict[str, float]], str]] = []
        self.pending: list[object] = []
        self.looks = 0
        monkeypatch.setattr(machines.ray, "nodes", lambda: self.machines)
        monkeypatch.setattr(machines, "leaving_machines", set)
        monkeypatch.setattr(joining, "may_grow", lambda: grows)
        monkeypatch.setattr(together, "placement_group", self.ask)
        monkeypatch.setattr(joining, "remove_placement_group", self.pending.remove)
        monkeypatch.setattr(joining.time, "sleep", self.look)

    def ask(self, bundles: list[dict[str, float]], strategy: str) -> object:
        self.asked.append((bundles, strategy))
        self.pending.append(request := object())
        return request

    def look(self, seconds: float) -> None:
        self.looks += 1
        if self.pending:
            self.machines.append({"Alive": True, "NodeID": "", "Resources": {"CPU": 4.0, "GPU": 1.0}})


def test_room_of_one_trial_is_asked_for_until_machines_bring_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A job sent to a cluster whose workers still install would end at once; and of an autoscaler nobody would ask for a worker."""
    cluster = FakeCluster(monkeypatch)
    with caplog.at_level(logging.WARNING):
        room = joining.awaited_room(TWO_WITH_GPUS)
    assert (room.places, cluster.looks) == (1, 2)
    assert cluster.asked == [([{"CPU": 1.0, "GPU": 1.0}] * 2, "SPREAD")]
    assert cluster.pending == [], "room that stays taken is room no trial gets"
    [said] = caplog.messages
    assert "no room for a trial yet (2 x 1 CPUs and 1 GPUs); waiting up to 30 minutes" in said


def test_waiting_for_machines_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that fits nowhere would be waited for without an end."""
    cluster = FakeCluster(monkeypatch)
    monkeypatch.setattr(joining, "WAIT_SECONDS", 0.0)
    assert joining.awaited_room(TWO_WITH_GPUS).places == 0
    assert cluster.pending == []


def test_waiting_for_machines_ends_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, heard by another thread: the search would hang, and leave room asked for that nobody uses."""
    cluster = FakeCluster(monkeypatch)

    def told() -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        joining.awaited_room(TWO_WITH_GPUS, told)
    assert cluster.looks == 0
    assert cluster.pending == []


WITH_A_NUMBER = ResourcesSection(concurrent_trials=4, gpus_per_worker=1)


@pytest.mark.parametrize(
    ("resources", "grows"), [(TWO_WITH_GPUS, False), (WITH_A_NUMBER, False), (WITH_A_NUMBER, True)]
)
def test_nothing_is_waited_for_where_nobody_joins_or_trials_wait_themselves(
    monkeypatch: pytest.MonkeyPatch, resources: ResourcesSection, grows: bool
) -> None:
    """Half an hour, on this machine alone; or before the trials that would make a cluster grow."""
    cluster = FakeCluster(monkeypatch, grows=grows)
    room = joining.awaited_room(resources)
    assert room.cpus == 0
    assert joining.has_room(resources, room) is grows
    assert (cluster.looks, cluster.asked) == (0, [])


@pytest.mark.parametrize(
    "resources",
    [
        {"gpus_per_worker": 1},
        {"cpus_per_worker": 4},
        {"workers_per_trial": 3, "cpus_per_worker": 1},
        {"workers_per_trial": {"min": 2, "max": 4}, "gpus_per_worker": 1},
    ],
)
@pytest.mark.parametrize("number", ["auto", 4])
def test_trial_that_never_fits_this_machine_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, resources: dict[str, Any], number: str | int
) -> None:
    """With a number of trials at once, a campaign on a laptop would wait for a GPU for ever, without a word."""
    cluster = FakeCluster(monkeypatch, grows=False)
    cluster.machines = [{"Alive": True, "NodeID": "", "Resources": {"CPU": 2.0}}]
    config = fakes.campaign(resources={**resources, "concurrent_trials": number})
    campaign = Campaign(config, tmp_path / "run", fakes.workshop())
    with pytest.raises(RoomError, match="a trial needs"):
        campaign._machines()
    cluster.machines = [{"Alive": True, "NodeID": "", "Resources": {"CPU": 4.0, "GPU": 2.0}}]
    assert campaign._machines().room.places >= 1


@pytest.mark.parametrize(
    ("gpus", "gpus_per_worker", "words"), [(2.0, 0, 1), (2.0, 1, 0), (0.0, 0, 0), (2.0, "auto", 0)]
)
def test_gpus_that_nobody_uses_are_told_of(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    gpus: float,
    gpus_per_worker: int | str,
    words: int,
) -> None:
    """Somebody waits for days for what a GPU beside it does in an hour."""
    cluster = FakeCluster(monkeypatch, grows=False)
    cluster.machines = [{"Alive": True, "NodeID": "", "Resources": {"CPU": 4.0, **({"GPU": gpus} if gpus else {})}}]
    config = fakes.campaign(resources={"gpus_per_worker": gpus_per_worker})
    # Advice to leave out what was left out.
    monkeypatch.setattr(joining, "torch_sees_gpus", lambda: False)
    idle.tell_of_unused_gpus.cache_clear()
    for ladder in ("first", "second"):
        Campaign(config, tmp_path / ladder, fakes.workshop())._machines()
    assert caplog.text.count("2 GPUs, and trials train on CPUs: resources.gpus_per_worker is 0") == words


@pytest.mark.parametrize(
    ("workers", "gpus", "each", "backend"),
    [
        (1, 0.0, 0, "inline"),
        (1, 1.0, 1, "train"),
        (2, 4.0, 1, "train"),
        (3, 2.0, 0.5, "train"),
        (4, 1.0, 0.25, "train"),
    ],
)
@pytest.mark.parametrize("able", [True, False])
def test_trials_get_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workers: int, gpus: float, each: float, backend: str, able: bool
) -> None:
    """Whoever has a GPU and knows no key for it would wait for days; or two workers for two GPUs where there is one; or each trial dies because torch knows no GPU."""
    cluster = FakeCluster(monkeypatch, grows=False)
    cluster.machines = [{"Alive": True, "NodeID": "", "Resources": {"CPU": 4.0, **({"GPU": gpus} if gpus else {})}}]
    config = fakes.campaign(resources={"workers_per_trial": workers})
    campaign = Campaign(config, tmp_path / "run", fakes.workshop())
    monkeypatch.setattr(joining, "torch_sees_gpus", lambda: able)
    found = campaign._machines()
    each = each if able else 0
    assert found.resources.gpus_per_worker == each
    assert backend_of(found.resources) == (backend if able else "inline" if workers == 1 else "train")
    asked = Machines(found.resources, machines.room_of(found.resources))
    assert (found.most.places, found.share(8)) == (asked.room.places, asked.share(8)), "as where the number was given"
    assert found.room.places >= 1
    assert campaign.config.resources.gpus_per_worker == "auto", "what is kept of the run is what was asked for"


@pytest.mark.parametrize(("grows", "words"), [(True, 1), (False, 0)])
def test_cluster_whose_gpus_may_come_later_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, grows: bool, words: int
) -> None:
    """Machines with GPUs that an autoscaler would have started, and nobody asks for."""
    FakeCluster(monkeypatch, grows=grows)
    joining._tell_of_no_gpu.cache_clear()
    for _ladder in range(2):
        resources = ResourcesSection()
        assert joining.settled(resources, machines.room_of(resources)).gpus_per_worker == 0
    assert caplog.text.count("the cluster has 0 GPUs now, and there may be some later") == words


@pytest.mark.parametrize(
    ("resources", "grows", "each"),
    [
        # The only GPU is on a machine that has too few CPUs for a worker.
        ({"cpus_per_worker": 4}, False, 0),
        ({"workers_per_trial": 4}, False, 0),
        ({"workers_per_trial": 2}, False, 0.5),
        # Others may join, each with its own GPU.
        ({"workers_per_trial": 2}, True, 0),
        ({}, True, 1),
    ],
)
def test_trial_that_does_not_fit_on_gpus_trains_as_before(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    resources: dict[str, Any],
    grows: bool,
    each: float,
) -> None:
    """A campaign that is refused, or held up, for a GPU nobody has asked for."""
    cluster = FakeCluster(monkeypatch, grows=grows)
    kinds = [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 64.0}]
    cluster.machines = [{"Alive": True, "NodeID": "", "Resources": kind} for kind in kinds]
    monkeypatch.setattr(joining, "torch_sees_gpus", lambda: True)
    joining._tell_of_no_gpu.cache_clear()
    asked = ResourcesSection(**resources)
    assert joining.settled(asked, machines.room_of(asked)).gpus == each
    assert ("no room for a trial's workers with a GPU each" in caplog.text) is (each == 0)


def test_gpus_that_torch_does_not_see_are_not_to_be_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A build of torch for processors: with 1, as the advice was, trials would take the GPUs and train on CPUs all the same."""
    cluster = FakeCluster(monkeypatch, grows=False)
    cluster.machines = [{"Alive": True, "NodeID": "", "Resources": {"CPU": 4.0, "GPU": 2.0}}]
    monkeypatch.setattr(joining, "torch_sees_gpus", lambda: False)
    joining._tell_of_no_gpu.cache_clear()
    resources = ResourcesSection()
    assert joining.settled(resources, machines.room_of(resources)).gpus == 0
    assert "install a build of torch for CUDA" in caplog.text
    assert "set it to 1" not in caplog.text


@pytest.mark.parametrize(
    ("answers", "free", "sees", "words"),
    [
        (["it"], 1.0, torch.cuda.is_available(), ""),
        # Of somebody who can use them.
        ([GetTimeoutError()], 0.0, True, ""),
        # A process that takes long to start.
        ([GetTimeoutError(), "it"], 1.0, torch.cuda.is_available(), ""),
        ([GetTimeoutError()] * 5, 1.0, None, "no process of the cluster has said within 5 minutes"),
        ([RayActorError()], 1.0, None, "could not be asked"),
    ],
)
def test_torch_is_asked_whether_it_sees_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answers: list[Any],
    free: float,
    sees: bool | None,
    words: str,
) -> None:
    """A GPU that is counted by Ray and unknown to torch; a start that waits for others to end; or a question that nobody withdraws."""
    coming, cancelled = iter(answers), list[Any]()

    def get(answer: bool, timeout: float) -> bool:
        said = next(coming)
        if isinstance(said, Exception):
            raise said
        return answer

    monkeypatch.setattr(joining.ray, "remote", lambda **_: lambda function: SimpleNamespace(remote=function))
    monkeypatch.setattr(joining.ray, "get", get)
    monkeypatch.setattr(joining.ray, "cancel", cancelled.append)
    monkeypatch.setattr(joining, "free_machines", lambda: [{"CPU": 4.0, "GPU": free}])
    joining.torch_sees_gpus.cache_clear()
    assert joining.torch_sees_gpus() is sees
    joining.torch_sees_gpus.cache_clear()
    assert list(coming) == []
    assert len(cancelled) == 1
    assert words in caplog.text
