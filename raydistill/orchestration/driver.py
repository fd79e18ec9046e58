"""The driver's loop: start what may run, promote what is done, score what was promoted, until nothing is left.

Everything it starts is a child of this process, so nothing outlives it; everything it knows is in the ledger, so nothing is lost with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from raydistill.config.schema import CampaignConfig
from raydistill.errors import TrialError
from raydistill.orchestration.coordinator import ask, unwrapped
from raydistill.orchestration.room import free_room
from raydistill.orchestration.shelf import clear_shelves
from raydistill.orchestration.studies import StudyRunner
from raydistill.orchestration.study import Study, cpus_per_worker, least_cpus, trial_directory
from raydistill.orchestration.table import write_table
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.grades import GradePlan, Ground, Lineage
from raydistill.planning.records import TrialRecord
from raydistill.planning.schedule import ready
from raydistill.planning.state import CampaignState

logger = logging.getLogger(__name__)
POLL_SECONDS = 0.5
RUNNER_LIVES = 3
Place = tuple[str, int]


@dataclass
class Job:
    """A study that is running, and the process it runs in."""

    study: Study
    runner: Any
    places: int
    lives: int = RUNNER_LIVES


@dataclass
class Driver:
    """The loop of one campaign.

    Attributes:
        config: the campaign.
        ground: dataset and encoder.
        lineages: its ladders.
        plans: the grades of each.
        root: the run directory.
        capacity: trials the cluster can run at once.
        cpus: CPUs of the cluster.
        coordinator: handle of the coordinator.
        workshop: what trials and evaluations run.
        observe: told of the state after every change.
    """

    config: CampaignConfig
    ground: Ground
    lineages: Sequence[Lineage]
    plans: Sequence[GradePlan]
    root: Path
    capacity: int
    cpus: float
    coordinator: Any
    workshop: Workshop
    observe: Callable[[CampaignState], None] | None = None
    state: CampaignState = field(default_factory=CampaignState)
    jobs: dict[Any, Job] = field(default_factory=dict)
    scorings: dict[Any, Place] = field(default_factory=dict)
    fingerprints: dict[Place, str] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)

    def run(self) -> CampaignState:
        """Run until every grade of every lineage has promoted and was tested."""
        try:
            self._listen()
            while not self.state.complete:
                self._start_scorings(self._start_studies())
                done, _ = ray.wait([*self.jobs, *self.scorings], timeout=POLL_SECONDS)
                # Before results are looked at: the error that ended the campaign explains them.
                self._listen()
                for reference in done:
                    self._finish(reference)
                self._listen()
            write_table(self.root, self.state)
            clear_shelves(self.root)
            return self.state
        finally:
            self._stop()

    def _listen(self) -> None:
        """Hear what is new. An error that ends the campaign is raised here."""
        news = ask(self.coordinator.news.remote(self.state.events))
        for event in news:
            self.state.apply(event)
        if news and self.observe is not None:
            self.observe(self.state)

    def _start_studies(self) -> int:
        """Start what may run; returns how many more trials would fit."""
        places = ready(
            [lineage.name for lineage in self.lineages], len(self.plans), self.state, self.config.schedule.name
        )
        running = {job.study.place for job in self.jobs.values()}
        doing = {job.study.fingerprint for job in self.jobs.values()}
        waiting: list[Study] = []
        # What a crash cut short goes on first: another study may wait for just that work.
        interrupted = {record.key[:2] for record in self.state.trials.values() if record.status == "running"}
        for place in sorted(places, key=lambda place: place not in interrupted):
            study = self._study(place)
            # Equal work is done once: the second waits, then finds every trial done.
            if place not in running and study.fingerprint not in doing:
                waiting.append(study)
                doing.add(study.fingerprint)
        done = self._done()
        free = self.capacity - len(self.scorings) - sum(job.places for job in self.jobs.values())
        for left, study in zip(range(len(waiting), 0, -1), waiting, strict=True):
            if study.fingerprint in done:
                # It finds every trial done, so it need not wait for room.
                self._start(Job(study, None, 0))
                continue
            weight = self._weight(study)
            if free < weight:
                break
            share = min(max(1, free // left // weight), study.limit)
            self._start(Job(replace(study, concurrency=share), None, share * weight))
            free -= share * weight
        return free

    def _done(self) -> set[str]:
        """Fingerprints of the studies that have promoted."""
        for place in self.state.promotions:
            if place not in self.fingerprints:
                self.fingerprints[place] = self._study(place).fingerprint
        return set(self.fingerprints.values())

    def _study(self, place: Place) -> Study:
        name, grade = place
        lineage = next(lineage for lineage in self.lineages if lineage.name == name)
        teacher = ask(self.coordinator.teacher.remote(name, grade))
        study = Study(self.config, self.ground, lineage, self.plans[grade], teacher, self.root)
        return replace(
            study, cpus=cpus_per_worker(self.config.resources, self.cpus, study.limit * self._neighbours(grade))
        )

    def _neighbours(self, grade: int) -> int:
        """How many studies may run beside each other: one per lineage, where teachers of one seed are one teacher; and all grades at once."""
        if self.config.schedule.name == "pipelined":
            return len(self.lineages) * len(self.plans)
        return len({lineage.seed for lineage in self.lineages}) if grade == 0 else len(self.lineages)

    def _weight(self, study: Study) -> int:
        """How many of the cluster's places one of its trials takes: more than one where it was given more CPUs than a trial needs."""
        if self.config.resources.concurrent_trials != "auto":
            return 1
        return min(self.capacity, max(1, round(study.cpus / least_cpus(self.config.resources))))

    def _start(self, job: Job) -> None:
        job.runner = self.idle.pop() if self.idle else ray.remote(StudyRunner).options(num_cpus=0).remote()
        logger.info(
            "%s, grade %s: %d trials at once", job.study.lineage.name, job.study.plan.folder, job.study.concurrency
        )
        self.jobs[job.runner.run.remote(job.study, self.coordinator, self.workshop)] = job

    def _start_scorings(self, free: int) -> None:
        """Score promotions where no trial wants the room: tests decide nothing, so nothing should wait for them."""
        under_way = {self.state.promotions[place].digest for place in self.scorings.values()}
        for place, promotion in self.state.promotions.items():
            if place in self.state.tests or promotion.digest in under_way:
                continue
            twin = self._tested_twin(promotion.digest)
            if twin is not None:
                ask(self.coordinator.record_test.remote(*place, twin))
            elif free > 0:
                under_way.add(promotion.digest)
                self.scorings[self._score(promotion.checkpoint)] = place
                free -= 1

    def _tested_twin(self, digest: str) -> dict[str, float] | None:
        """What an equal checkpoint of another lineage scored."""
        places = (place for place in self.state.tests if self.state.promotions[place].digest == digest)
        return next((self.state.tests[place] for place in places), None)

    def _score(self, checkpoint: str) -> Any:
        resources = self.config.resources
        options = {"num_cpus": least_cpus(resources), "num_gpus": resources.gpus_per_worker, "max_retries": 2}
        return ray.remote(score).options(**options).remote(checkpoint, self.config, self.workshop)

    def _finish(self, reference: Any) -> None:
        place = self.scorings.pop(reference, None)
        job = self.jobs.pop(reference, None)
        try:
            answer = ask(reference)
        except RayError as problem:
            if job is None or job.lives == 0 or not isinstance(problem, RayActorError):
                raise self._given_up(place or job.study.place, problem) from problem  # type: ignore[union-attr]
            # The process of a search died. Its trials died with it, and the ledger knows how far they were.
            self._free(record for record in self.state.of(*job.study.place) if record.status == "running")
            self._start(replace(job, lives=job.lives - 1))
            return
        if place is not None:
            ask(self.coordinator.record_test.remote(*place, answer))
        if job is not None:
            self.idle.append(job.runner)
            write_table(self.root, self.state)

    def _given_up(self, place: Place, problem: RayError) -> TrialError:
        cause = str(unwrapped(problem)).strip().splitlines()[-1]
        return TrialError(
            f"{place[0]}, grade {self.plans[place[1]].folder}: {cause}",
            expected="a search, or the scoring of its result, that ends",
            remedy="see the log, and whether the machine runs out of memory; then run again with --resume",
        )

    def _stop(self) -> None:
        for runner in [*self.idle, *(job.runner for job in self.jobs.values())]:
            ray.kill(runner)
        for reference in self.scorings:
            ray.cancel(reference, force=True)
        # On a cluster that lives on, their room would stay taken.
        self._free(record for record in self.state.trials.values() if record.status == "running")
        self.jobs.clear()
        self.scorings.clear()
        self.idle.clear()

    def _free(self, records: Iterable[TrialRecord]) -> None:
        for record in records:
            free_room(trial_directory(self.root, self.plans[record.grade].folder, record.identity))


def score(checkpoint: str, config: CampaignConfig, workshop: Workshop) -> dict[str, float]:
    """What a promoted checkpoint scores on the test split, and how big it is."""
    workshop.set_threads(max(1, int(least_cpus(config.resources))))
    facts = workshop.checkpoint_facts(checkpoint)
    sizes: dict[str, float] = {name: float(facts[name]) for name in ("layers", "parameters", "bytes")}
    return {**workshop.test_metrics(checkpoint, config), **sizes}
