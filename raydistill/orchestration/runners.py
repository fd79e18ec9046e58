"""The processes that studies run in, and how much of the cluster each has."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from raydistill.orchestration.machines import Machines, beside_driver, free_machines
from raydistill.orchestration.room import requests_for_room
from raydistill.orchestration.studies import StudyRunner
from raydistill.orchestration.study import Study
from raydistill.planning.places import least_cpus, workers_that_fit

logger = logging.getLogger(__name__)
RUNNER_DEATHS = 3
"""How often the process of a search may die at least; as often as a trial's, where that is more."""
END_SECONDS = 5.0
"""How long the end of a campaign waits for processes of trials that have nothing left to do."""
AGAIN_SECONDS = 300.0
"""Between two words about the same wait."""
LOOK_SECONDS = 10.0
"""Between looks at what trials wait for."""
KINDS = ("CPU", "GPU")
LEAST = 0.01
"""Less than that of a CPU or GPU nobody uses: sums of fractions are not exact."""
PATIENCE_SECONDS = 180.0
"""How long room that the machines have may be taken before that is told: others of the campaign's own trials may just leave it."""


@dataclass
class Job:
    """A study that is running, and the process it runs in."""

    study: Study
    runner: Any
    places: int
    deaths: int = 0

    @property
    def worn_out(self) -> bool:
        """Whether its process has died too often to be started again."""
        return self.deaths > max(RUNNER_DEATHS, self.study.config.resources.max_failures)

    def grow(self, places: int, weight: int) -> int:
        """Let more of its trials run at once; returns how many places that takes.

        Args:
            places: what there is to take.
            weight: places of one trial.
        """
        more = min(places // weight, self.study.limit - self.study.concurrency)
        if not self.places or more <= 0:
            return 0
        self.study = replace(self.study, concurrency=self.study.concurrency + more)
        self.places += more * weight
        self.runner.allow.remote(self.study.place, self.study.concurrency)
        return more * weight


class Runners:
    """The processes that studies run in, of which those that are done wait for the next.

    Args:
        spare: whether one more than are used is started ahead, where the next study is soon to follow: a process takes seconds to start.
    """

    def __init__(self, spare: bool) -> None:
        self._spare, self.waiting = spare, Waiting()
        self._all: list[Any] = []
        self._idle: list[Any] = []
        self._warm: list[Any] = []

    def prepare(self) -> None:
        """Start the first process before there is a study for it."""
        self._idle.append(self._start())

    def take(self) -> Any:
        """A process that runs nothing: the last that did, in case the processes of its trials are still there, or else any."""
        runner = self._idle.pop() if self._idle else self._start()
        if runner in self._warm:
            self._warm.remove(runner)
        if self._spare and not self._idle:
            self._idle.append(self._start())
        return runner

    def put(self, runner: Any) -> None:
        """Take back a process whose study is done."""
        self._idle.append(runner)
        self._warm.append(runner)

    def let_go(self) -> None:
        """End the trials' processes of those that have got no other study: others need their room."""
        for runner in self._warm:
            runner.let_go.remote()
        self._warm.clear()

    def stop(self, busy: Collection[Any], *, at_once: bool = False) -> None:
        """End all processes.

        Args:
            busy: those at work.
            at_once: do not wait until the others have ended their trials' processes, which have nothing left to do.
        """
        others = [runner for runner in self._all if runner not in busy]
        if others and not at_once:
            # A process that is killed before its trials' leaves their room taken, on a cluster that goes on.
            ray.wait([runner.end.remote() for runner in others], num_returns=len(others), timeout=END_SECONDS)
        for runner in self._all:
            ray.kill(runner)
        for known in (self._all, self._idle, self._warm):
            known.clear()

    def _start(self) -> Any:
        # Two calls at once: it can be spoken to while it runs a study.
        runner = ray.remote(StudyRunner).options(**beside_driver(), max_concurrency=2).remote()
        self._all.append(runner)
        return runner


def grow(jobs: Iterable[Job], machines: Machines, free: int, wanted: bool) -> int:
    """Give running studies the room that came since they were started; returns what is left of it.

    Room that another study has left only where it is not `wanted`: the next one would have to wait for it otherwise.

    Args:
        jobs: what runs.
        machines: the room there is.
        free: trials that would fit beside.
        wanted: whether somebody will come for that room.
    """
    added, taken = machines.added(), 0
    room = min(free, added) if wanted else free
    for job in jobs:
        taken += job.grow(room - taken, machines.weight(job.study.cpus, job.study.workers))
    return free - taken


class Waiting:
    """Says whose trials wait because the machines that are there have no room for a single one: at once, and then now and then."""

    def __init__(self) -> None:
        self._again: dict[str, float] = {}
        self._taken = Taken()

    def look(self, jobs: Iterable[Job], machines: Machines, beside: Sequence[Mapping[str, float]] = ()) -> None:
        """Look at the studies that run; `beside` is what else of the campaign's runs has, such as {"CPU": 2.0}, and did not ask for as trials do."""
        self._taken.look(machines, beside)
        for job in jobs:
            if job.places:
                self.tell(job.study.title, machines, job.study.cpus)

    def tell(self, who: str, machines: Machines, cpus: float | None = None) -> None:
        """Say it of one, if it waits and that was not said lately; `cpus` are those of each worker, None = the least."""
        now, needs = time.monotonic(), machines.resources
        cpus = cpus or least_cpus(needs)
        if workers_that_fit(needs, cpus, machines.room.machines) >= needs.least_workers:
            self._again.pop(who, None)
        elif now >= self._again.get(who, now):
            self._again[who] = now + AGAIN_SECONDS
            logger.warning(
                "%s: the cluster's machines have no room for a trial (%d x %g CPUs and %g GPUs, placement %s); waiting for other machines",
                who,
                needs.least_workers,
                cpus,
                needs.gpus,
                needs.placement,
            )


class Taken:
    """Says that trials wait for room which the machines have and others use: the ledger calls them running, and on a cluster of many users that may last for days.

    What Ray has not found room for yet is what waits; a trial that trains has its room, however long nothing is heard of it.
    """

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._again: dict[str, float] = {}
        self._had: set[str] = set()
        self._next = 0.0

    def look(self, machines: Machines, beside: Sequence[Mapping[str, float]] = ()) -> None:
        """Look now and then; `beside` as in `Waiting.look`."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LOOK_SECONDS
        asked = requests_for_room()
        waiting = {one.name: one.parts for one in asked if one.waits}
        # One that lost a part of its room with a machine waits, and still has the rest: at most all of it.
        self._had = {one.name for one in asked if not one.waits or one.name in self._had}
        self._since = {name: self._since.get(name, now) for name in waiting}
        self._again = {name: moment for name, moment in self._again.items() if name in waiting}
        late = [name for name, since in self._since.items() if now - since >= PATIENCE_SECONDS]
        if not any(now >= self._again.get(name, now) for name in late):
            return
        found = [*(part for one in asked if one.name in self._had for part in one.parts), *beside]
        ours, left = ({kind: _sum(kind, parts) for kind in KINDS} for parts in (found, free_machines()))
        others = {
            "CPU": machines.room.cpus - left["CPU"] - ours["CPU"],
            "GPU": machines.room.gpus - left["GPU"] - ours["GPU"],
        }
        # Of what is not the others' the campaign's own trials have to wait for each other, after the loss of a machine.
        if not any(others[kind] > LEAST and _sum(kind, waiting[name]) > 0 for name in late for kind in KINDS):
            return
        self._again |= dict.fromkeys(late, now + AGAIN_SECONDS)
        longest = max(late, key=lambda name: now - self._since[name])
        logger.warning(
            "%s use the cluster: %d of the campaign's trials wait for room, the first (%s) for %d minutes; of %g CPUs and %g GPUs this campaign has %g and "
            "%g, and %g and %g are free; lower resources.cpus_per_worker or resources.workers_per_trial and go on with --resume, or wait",
            "others" if machines.beside == 1 else "the search's other ladders, or others,",
            len(late),
            _told(waiting[longest]),
            (now - self._since[longest]) / 60,
            machines.room.cpus,
            machines.room.gpus,
            *(ours[kind] for kind in KINDS),
            *(left[kind] for kind in KINDS),
        )


def _sum(kind: str, parts: Iterable[Mapping[str, float]]) -> float:
    return sum(part.get(kind, 0.0) for part in parts)


def _told(parts: Sequence[Mapping[str, float]]) -> str:
    return f"{len(parts)} x {parts[0].get('CPU', 0.0):g} CPUs and {parts[0].get('GPU', 0.0):g} GPUs"
