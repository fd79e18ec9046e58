"""Scoring promoted checkpoints on the test split, each in a task of its own: tests decide nothing, so nothing waits for them.

A scoring is one process on one machine, with the CPUs that a worker of the grade's trials has. What cannot be scored ends the campaign, but only when
everything else is done.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from raydistill.config.schema import CampaignConfig
from raydistill.errors import RayDistillError, ScoringError
from raydistill.orchestration.asking import ask, unwrapped
from raydistill.orchestration.machines import Machines
from raydistill.orchestration.study import Study
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.state import CampaignState

logger = logging.getLogger(__name__)
Place = tuple[str, int]


@dataclass(frozen=True)
class Scoring:
    """One that runs.

    Attributes:
        place: whose checkpoint.
        checkpoint: where it lies.
        room: places of trials that it takes.
    """

    place: Place
    checkpoint: str
    room: int


@dataclass
class Scorings:
    """The scorings of one campaign.

    Attributes:
        config: the campaign.
        coordinator: handle of the coordinator, which records what they find.
        workshop: what they run.
        machines: the room there is.
        studies: of every grade that has promoted.
        running: those that run, by the reference of the answer.
        failures: why a checkpoint could not be scored.
    """

    config: CampaignConfig
    coordinator: Any
    workshop: Workshop
    machines: Machines
    studies: Mapping[Place, Study]
    running: dict[Any, Scoring] = field(default_factory=dict)
    failures: dict[Place, ScoringError] = field(default_factory=dict)

    @property
    def room(self) -> int:
        """Places of trials that they take."""
        return sum(one.room for one in self.running.values())

    def start(self, state: CampaignState, free: int) -> None:
        """Score what was promoted, where no trial wants the room. Equal checkpoints are scored once."""
        under_way = {state.promotions[one.place].digest for one in self.running.values()}
        for place, promotion in state.promotions.items():
            if place in state.tests or place in self.failures or promotion.digest in under_way:
                continue
            twin = _tested_twin(state, promotion.digest)
            if twin is not None:
                ask(self.coordinator.record_test.remote(*place, twin))
                continue
            cpus = self.machines.within(self.studies[place].cpus)
            room = self.machines.weight(cpus, 1)
            if room <= free:
                under_way.add(promotion.digest)
                reference = self._start(promotion.checkpoint, cpus, self.studies[place].threads)
                self.running[reference] = Scoring(place, promotion.checkpoint, room)
                free -= room

    def finish(self, reference: Any) -> None:
        """Record what a scoring found; or keep in `failures` why it found nothing, or died too often."""
        scoring = self.running.pop(reference)
        try:
            metrics = ask(reference)
        except (RayError, RayDistillError) as problem:
            failure = self._failure(scoring, problem)
            logger.warning("%s; the campaign goes on without it", failure.received)
            self.failures[scoring.place] = failure
            return
        ask(self.coordinator.record_test.remote(*scoring.place, metrics))

    def cancel(self) -> None:
        """End those that run."""
        for reference in self.running:
            ray.cancel(reference, force=True)
        self.running.clear()

    def _start(self, checkpoint: str, cpus: float, threads: int) -> Any:
        options = {"num_cpus": cpus, "num_gpus": self.config.resources.gpus_per_worker, "max_retries": 2}
        return ray.remote(score).options(**options).remote(checkpoint, self.config, self.workshop, threads)

    def _failure(self, scoring: Scoring, problem: RayError | RayDistillError) -> ScoringError:
        said, study = unwrapped(problem), self.studies[scoring.place]
        whole = said.received if isinstance(said, RayDistillError) else str(said).strip()
        cause = (whole or type(said).__name__).splitlines()[-1]
        return ScoringError(
            f"{study.lineage.name}, grade {study.plan.folder}: no score on the test split: {cause}",
            expected="room on one machine for the model, and for the vectors of all entities",
            consequence="what could be trained was trained and promoted, and is kept; the results lack this score",
            remedy="mend what the reason names, or make room in memory where a process died, then run again with --resume, which tries it again; or "
            f"score it elsewhere: raydistill evaluate {scoring.checkpoint} --data {self.config.data.path}",
        )


def score(checkpoint: str, config: CampaignConfig, workshop: Workshop, threads: int) -> dict[str, float]:
    """What a promoted checkpoint scores on the test split, and how big it is."""
    workshop.set_threads(threads)
    facts = workshop.checkpoint_facts(checkpoint)
    sizes: dict[str, float] = {name: float(facts[name]) for name in ("layers", "parameters", "bytes")}
    return {**workshop.test_metrics(checkpoint, config), **sizes}


def _tested_twin(state: CampaignState, digest: str) -> dict[str, float] | None:
    """What an equal checkpoint of another lineage scored."""
    places = (place for place in state.tests if state.promotions[place].digest == digest)
    return next((state.tests[place] for place in places), None)
