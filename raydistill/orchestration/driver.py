"""The driver's loop: start what may run, promote what is done, score what was promoted, until nothing is left.

Everything it starts is a child of this process, so nothing outlives it; everything it knows is in the ledger, so nothing is lost with it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from raydistill.config.schema import CampaignConfig
from raydistill.errors import PromotionError, RayDistillError, RunDirectoryError
from raydistill.orchestration.asking import ask
from raydistill.orchestration.halting import halt_all
from raydistill.orchestration.losses import Head, given_up, head_watched
from raydistill.orchestration.machines import Machines
from raydistill.orchestration.premises import release_here
from raydistill.orchestration.room import free_orphaned_room
from raydistill.orchestration.runners import Job, Runners, grow
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.scoring import Scorings
from raydistill.orchestration.shelf import clear_shelves
from raydistill.orchestration.study import Study
from raydistill.orchestration.table import write_table
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.grades import GradePlan, Lineage
from raydistill.planning.ground import Ground
from raydistill.planning.places import share_out
from raydistill.planning.records import Place
from raydistill.planning.schedule import neighbours, ready, to_come
from raydistill.planning.search import resting
from raydistill.planning.state import CampaignState

logger = logging.getLogger(__name__)
POLL_SECONDS = 0.5


@dataclass
class Driver:
    """The loop of one campaign.

    Attributes:
        config: the campaign.
        ground: dataset and encoder.
        lineages: its ladders.
        plans: the grades of each.
        store: where the run lies.
        machines: the room there is.
        coordinator: handle of the coordinator.
        workshop: what trials and evaluations run.
        observe: told of the state after every change.
        check: raises when the run is another driver's.
        heed: raises SystemExit when all is to be saved, and to end.
    """

    config: CampaignConfig
    ground: Ground
    lineages: Sequence[Lineage]
    plans: Sequence[GradePlan]
    store: RunStore
    machines: Machines
    coordinator: Any
    workshop: Workshop
    observe: Callable[[CampaignState], None] | None = None
    check: Callable[[], None] = lambda: None
    heed: Callable[[], None] = lambda: None
    state: CampaignState = field(default_factory=CampaignState)
    jobs: dict[Any, Job] = field(default_factory=dict)
    scorings: Scorings = field(init=False)
    studies: dict[Place, Study] = field(default_factory=dict)
    failures: dict[Place, PromotionError] = field(default_factory=dict)
    resting: set[Place] = field(default_factory=set)
    unplaced: int = 0
    runners: Runners = field(init=False)

    def __post_init__(self) -> None:
        self.scorings = Scorings(self.config, self.coordinator, self.workshop, self.machines, self.studies)
        self.runners = Runners(spare=self.config.schedule.name == "pipelined")

    def run(self) -> CampaignState:
        """Run until every grade of every lineage has promoted and was tested.

        Raises:
            PromotionError: a grade has no trial to promote; every lineage that does not need it has been run to its end.
            ScoringError: a promoted checkpoint cannot be scored; everything else has been run to its end.
            TrialError: a process that the campaign cannot do without died too often.
            ClusterError: the head of the cluster is lost.
        """
        with head_watched() as head:
            try:
                self._loop(head)
                clear_shelves(self.store, self.state.grades)
            except RayError as problem:
                head.require()
                raise given_up(self.store, "the campaign", problem) from problem
            except (RayDistillError, SystemExit, KeyboardInterrupt) as problem:
                # It may be one machine's fault, of which the others' trials are to lose nothing; but a run that is another driver's is not ours to save.
                with contextlib.suppress(RunDirectoryError):
                    self.check()
                    if head.lost is None:
                        halt_all(self.coordinator)
                        self._stop(at_once=not isinstance(problem, RayDistillError))
                raise
            finally:
                if head.lost is None:
                    self._stop()
                with contextlib.suppress(RunDirectoryError):
                    self.check()
                    write_table(self.store, self.state)
        return self.state

    def _loop(self, head: Head) -> None:
        self._listen()
        self.resting = resting(self.state, self.lineages, self.plans, self.config.search.algorithm)
        while not self.state.complete:
            if not head.check():
                time.sleep(POLL_SECONDS)
                continue
            # Every time, not only when a death was seen: a process may die before it has told anybody what it took.
            free_orphaned_room()
            self.machines.look()
            self.runners.waiting.look(self.jobs.values(), self.machines, self.scorings.beside)
            free = grow(self.jobs.values(), self.machines, *self._start_studies())
            self.scorings.start(self.state, free, alone=not self.jobs)
            failures = [*self.failures.values(), *self.scorings.failures.values()]
            if failures and not (self.jobs or self.unplaced or self.scorings.left(self.state)):
                raise failures[0]
            done = self._wait()
            # Before results are looked at: the error that ended the campaign explains them.
            self._listen()
            for reference in done:
                if reference in self.jobs:
                    self._finish_study(reference, self.jobs.pop(reference))
                else:
                    self.scorings.finish(reference)
            self._listen()

    def _wait(self) -> list[Any]:
        under_way = [*self.jobs, *self.scorings.running]
        if not under_way:
            # Nothing has room; Ray would not wait for nothing.
            self.runners.waiting.tell("the next grade", self.machines)
            time.sleep(POLL_SECONDS)
            return []
        return list(ray.wait(under_way, timeout=POLL_SECONDS)[0])

    def _listen(self) -> None:
        """Hear what is new. An error that ends the campaign is raised here."""
        self.heed()
        self.check()
        news = ask(self.coordinator.news.remote(self.state.events))
        for event in news:
            self.state.apply(event)
        if news and self.observe is not None:
            self.observe(self.state)

    def _start_studies(self) -> tuple[int, bool]:
        """Start what may run; returns how many more trials would fit, and whether somebody will come for their room."""
        names, schedule = [lineage.name for lineage in self.lineages], self.config.schedule.name
        # A study that has promoted ends within moments, and leaves the process of its trials to the grade below.
        ending = {(name, grade + 1) for name, grade in self._running() if (name, grade) in self.state.promotions}
        places = [
            place for place in ready(names, len(self.plans), self.state, schedule, self.resting) if place not in ending
        ]
        # What a crash cut short goes on first: another study may wait for just that work.
        interrupted = {record.key[:2] for record in self.state.trials.values() if record.status == "running"}
        waiting = self._waiting(sorted(places, key=lambda place: place not in interrupted))
        done = {self._study(place).fingerprint for place in self.state.promotions}
        fresh = [study for study in waiting if study.fingerprint not in done]
        free = self.machines.room.places - self.scorings.room - sum(job.places for job in self.jobs.values())
        weights = [self.machines.weight(one.cpus, one.workers) for one in fresh]
        kept = to_come(names, len(self.plans), self.state, schedule, {*places, *self._running()}, self.failures)
        shares = share_out(free, [(weight, study.limit) for weight, study in zip(weights, fresh, strict=True)], kept)
        for study, weight, share in zip(fresh, weights, shares, strict=True):
            if share:
                self._start(Job(replace(study, concurrency=share), None, share * weight))
                free -= share * weight
        self.unplaced = shares.count(0)
        # Room of trials that have ended is free for others as soon as it is known which studies do not follow in it.
        self.runners.let_go()
        for study in (study for study in waiting if study.fingerprint in done):
            # It finds every trial done, so it need not wait for room.
            self._start(Job(study, None, 0))
        return free, schedule != "pipelined" or kept > 0 or not all(shares)

    def _waiting(self, places: Sequence[Place]) -> list[Study]:
        """The studies that should start. Equal work is done once: a second study of it waits, then finds every trial done."""
        running, doing = self._running(), {job.study.fingerprint for job in self.jobs.values()}
        waiting: list[Study] = []
        for place in places:
            study = self._study(place)
            if place not in running and place not in self.failures and study.fingerprint not in doing:
                waiting.append(study)
                doing.add(study.fingerprint)
        return waiting

    def _running(self) -> set[Place]:
        return {job.study.place for job in self.jobs.values()}

    def _study(self, place: Place) -> Study:
        """The study of a grade whose teacher is known, which stays as it is from then on."""
        if place not in self.studies:
            self.studies[place] = self._plan(*place)
        return self.studies[place]

    def _plan(self, name: str, grade: int) -> Study:
        lineage = next(lineage for lineage in self.lineages if lineage.name == name)
        teacher = ask(self.coordinator.teacher.remote(name, grade))
        study = Study(self.config, self.ground, lineage, self.plans[grade], teacher, self.store, release=release_here())
        beside = neighbours(grade, [one.seed for one in self.lineages], len(self.plans), self.config.schedule.name)
        workers, each = self.machines.share(study.limit * beside, grade)
        return replace(study, cpus=each, workers=workers, earlier=ask(self.coordinator.earlier.remote(name, grade)))

    def _start(self, job: Job) -> None:
        job.runner = self.runners.take()
        logger.info("%s: %d trials at once", job.study.title, job.study.concurrency)
        self.jobs[job.runner.run.remote(job.study, self.coordinator, self.workshop)] = job

    def _finish_study(self, reference: Any, job: Job) -> None:
        try:
            ask(reference)
        except RayError as problem:
            job = replace(job, deaths=job.deaths + 1)
            if job.worn_out or not isinstance(problem, RayActorError):
                raise given_up(self.store, job.study.title, problem) from problem
            # The process of a search died. Its trials died with it, and the ledger knows how far they were.
            self._start(job)
            return
        except PromotionError as problem:
            # Another lineage may do better, and its results are wanted whatever became of this one.
            logger.warning("%s: %s", job.study.title, problem.received)
            self.failures[job.study.place] = problem
        # Unless it has promoted, all that is left of it waits for its final teacher.
        self.resting.add(job.study.place)
        self.runners.put(job.runner)
        write_table(self.store, self.state)

    def _stop(self, *, at_once: bool = False) -> None:
        self.runners.stop([job.runner for job in self.jobs.values()], at_once=at_once)
        self.scorings.cancel()
        self.jobs.clear()
        # An error that holds this driver would keep it alive on a cluster that goes on.
        ray.kill(self.coordinator)
