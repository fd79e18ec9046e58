"""The processes that studies run in, and how much of the cluster each has."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import ray

from raydistill.orchestration.machines import beside_driver
from raydistill.orchestration.studies import StudyRunner
from raydistill.orchestration.study import Study

logger = logging.getLogger(__name__)
RUNNER_DEATHS = 3
"""How often the process of a search may die at least; as often as a trial's, where that is more."""


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
        self._spare = spare
        self._idle: list[Any] = []

    def take(self) -> Any:
        """A process that runs nothing."""
        runner = self._idle.pop() if self._idle else self._start()
        if self._spare and not self._idle:
            self._idle.append(self._start())
        return runner

    def put(self, runner: Any) -> None:
        """Take back a process whose study is done."""
        self._idle.append(runner)

    def stop(self, busy: Iterable[Any]) -> None:
        """End all processes, and those that are at work."""
        for runner in [*self._idle, *busy]:
            ray.kill(runner)
        self._idle.clear()

    def _start(self) -> Any:
        # Two calls at once: it can be spoken to while it runs a study.
        return ray.remote(StudyRunner).options(**beside_driver(), max_concurrency=2).remote()


def warn_of_waiting(jobs: Iterable[Job], widest: float) -> None:
    """Say whose trials wait, because no machine that is left has as many CPUs as one of their workers."""
    for job in jobs:
        if job.places and job.study.cpus > widest:
            where = f"{job.study.lineage.name}, grade {job.study.plan.folder}"
            logger.warning(
                "%s: a worker has %g CPUs, and no machine that is left has so many; its trials wait for one",
                where,
                job.study.cpus,
            )
