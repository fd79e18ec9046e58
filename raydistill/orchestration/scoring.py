"""Scoring promoted checkpoints on the test split, each in a task of its own: tests decide nothing, so nothing waits for them.

A scoring has as many processes as a trial of the campaign has at least, with the CPUs that a worker of the grade's trials has: each encodes and ranks a part of the
entities, so that a graph may be larger than one machine. What cannot be scored ends the campaign, but only when everything else is done.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup

from raydistill.config.schema import CampaignConfig
from raydistill.errors import ProcessError, RayDistillError, RoomError, ScoringError
from raydistill.orchestration.asking import ask, unwrapped
from raydistill.orchestration.lenders import Lenders, lenders_of
from raydistill.orchestration.machines import Machines, beside_driver
from raydistill.orchestration.orphans import end_with_head
from raydistill.orchestration.premises import Premises
from raydistill.orchestration.study import Study
from raydistill.orchestration.together import ATTEMPTS, Team, together
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.records import Place
from raydistill.planning.state import CampaignState

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scoring:
    """One that runs.

    Attributes:
        place: whose checkpoint.
        checkpoint: where it lies.
        room: places of trials that it takes.
        cpus: of each of its processes.
        group: the room it has set aside on the cluster; None where it is one process.
    """

    place: Place
    checkpoint: str
    room: int
    cpus: float
    group: PlacementGroup | None = None

    def give_back(self) -> None:
        """Leave the room to others."""
        if self.group is not None:
            remove_placement_group(self.group)


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
        deaths: how often one of several processes died that scored a checkpoint.
        failures: why a checkpoint could not be scored.
    """

    config: CampaignConfig
    coordinator: Any
    workshop: Workshop
    machines: Machines
    studies: Mapping[Place, Study]
    running: dict[Any, Scoring] = field(default_factory=dict)
    deaths: Counter[Place] = field(default_factory=Counter)
    failures: dict[Place, ScoringError] = field(default_factory=dict)

    @property
    def room(self) -> int:
        """Places of trials that they take."""
        return sum(one.room for one in self.running.values())

    def start(self, state: CampaignState, free: int, *, alone: bool = False) -> None:
        """Score what was promoted, where no trial wants the room. Equal checkpoints are scored once, in the run that a trial was taken from where it has done so.

        Args:
            state: of the campaign.
            free: trials that would fit beside what runs.
            alone: whether no study runs: where machines are left, one scoring then runs even if a trial would find no room on them.
        """
        self._let_go_of_what_waits()
        under_way = {state.promotions[one.place].digest for one in self.running.values()}
        for place in self._unscored(state):
            promotion = state.promotions[place]
            if promotion.digest in under_way:
                continue
            twin = state.scored(promotion.digest)
            if twin is not None:
                ask(self.coordinator.record_test.remote(*place, twin))
                continue
            study = self.studies[place]
            cpus = self.machines.within(self.machines.divided(study.cpus, study.plan.index))
            team = Team.of(self.config.resources, self.machines.least_team(cpus), cpus)
            room = self.machines.weight(cpus, team.size)
            if room <= free or (alone and not self.running and self.machines.room.cpus):
                under_way.add(promotion.digest)
                group = team.room() if team.size > 1 else None
                lenders = lenders_of(study.store, state, place) if self.config.storage.share_trials else None
                reference = self._start(promotion.checkpoint, study, team, group, lenders)
                self.running[reference] = Scoring(place, promotion.checkpoint, room, cpus, group)
                free -= room

    def left(self, state: CampaignState) -> bool:
        """Whether a promoted checkpoint is still to be scored, now or when there are machines for it."""
        return bool(self._unscored(state))

    def _unscored(self, state: CampaignState) -> list[Place]:
        return [place for place in state.promotions if place not in state.tests and place not in self.failures]

    def _let_go_of_what_waits(self) -> None:
        """End a scoring by one process whose machine was lost, where no other has as many CPUs: Ray would wait for one with it. By several, it hears of it itself."""
        for reference, one in list(self.running.items()):
            if one.group is None and self.machines.within(one.cpus) < one.cpus:
                logger.warning(
                    "%s, grade %d: no machine with %g CPUs is left for the score; it is begun anew",
                    *one.place,
                    one.cpus,
                )
                ray.cancel(reference)
                del self.running[reference]

    def finish(self, reference: Any) -> None:
        """Record what a scoring found; or keep in `failures` why it found nothing, or died too often."""
        scoring = self.running.pop(reference)
        scoring.give_back()
        try:
            metrics = ask(reference)
        except (RayError, RayDistillError) as problem:
            if scoring.group is not None and self._begins_anew(scoring.place, problem):
                return
            failure = self._failure(scoring, problem)
            logger.warning("%s; the campaign goes on without it", failure.received)
            self.failures[scoring.place] = failure
            return
        ask(self.coordinator.record_test.remote(*scoring.place, metrics))

    def _begins_anew(self, place: Place, problem: RayError | RayDistillError) -> bool:
        """Whether several are to score it once more, by as many as there is room for then: a machine may have been lost."""
        # A task that tells of an error has not died; or it tells that one of several did.
        died = isinstance(problem, ProcessError) or not isinstance(problem, (RayTaskError, RayDistillError))
        self.deaths[place] += died
        again = isinstance(problem, RoomError) or (died and self.deaths[place] < ATTEMPTS)
        if again:
            said = problem.received if isinstance(problem, RayDistillError) else "one of the processes died"
            logger.warning("%s, grade %d: the score on the test split is begun anew: %s", *place, said)
        return again

    @property
    def beside(self) -> list[dict[str, float]]:
        """What those of one process have: they ask for it without a placement group."""
        gpus = float(self.config.resources.gpus)
        return [{"CPU": one.cpus, "GPU": gpus} for one in self.running.values() if one.group is None]

    def cancel(self) -> None:
        """End those that run."""
        for reference, scoring in self.running.items():
            # By force, a task that ends at the same moment would end this process (Ray 2.60).
            ray.cancel(reference)
            scoring.give_back()
        self.running.clear()

    def _start(
        self, checkpoint: str, study: Study, team: Team, group: PlacementGroup | None, lenders: Lenders | None
    ) -> Any:
        threads = min(study.threads, max(1, int(team.cpus)))
        told = checkpoint, self.config, self.workshop, threads, group is not None, study.premises
        if group is None:
            # Ray's types know functions of a few arguments.
            alone: Any = ray.remote(max_retries=2, num_cpus=team.cpus, num_gpus=team.gpus)(_score_alone)
            return alone.remote(lenders, *told)
        return ray.remote(max_retries=2, **beside_driver())(_score_together).remote(lenders, told, team, group)

    def _failure(self, scoring: Scoring, problem: RayError | RayDistillError) -> ScoringError:
        said, study = unwrapped(problem), self.studies[scoring.place]
        whole = said.received if isinstance(said, RayDistillError) else str(said).strip()
        cause = (whole or type(said).__name__).splitlines()[-1]
        return ScoringError(
            f"{study.title}: no score on the test split: {cause}",
            expected="room for the model in each process, and for the vectors of all entities in all of them",
            consequence="what could be trained was trained and promoted, and is kept; the results lack this score",
            remedy="mend what the reason names, or make room in memory where a process died, then run again with --resume, which tries it again; or "
            f"score it elsewhere: raydistill evaluate {scoring.checkpoint} --data {self.config.data.path}",
        )


def score(
    checkpoint: str,
    config: CampaignConfig,
    workshop: Workshop,
    threads: int,
    shared: bool = False,
    premises: Premises | None = None,
) -> dict[str, float]:
    """What a promoted checkpoint scores on the test split, and how big it is; `shared` with the others of a process group. `premises` are refused where they are not met."""
    if premises is not None:
        premises.require()
    from raydistill.devices import keep_to

    keep_to(config.resources.gpus)
    workshop.set_threads(threads)
    facts = workshop.checkpoint_facts(checkpoint)
    sizes: dict[str, float] = {name: float(facts[name]) for name in ("layers", "parameters", "bytes")}
    return {**workshop.test_metrics(checkpoint, config, workshop.world(shared)), **sizes}


def _score_alone(lenders: Lenders | None, *told: Any) -> dict[str, float]:
    """`score` in a process of its own, or what another run has of it."""
    end_with_head()
    return _lent(lenders, told) or score(*told)


def _score_together(lenders: Lenders | None, told: Sequence[Any], team: Team, group: PlacementGroup) -> Any:
    """`score` by several processes, or what another run has of it."""
    return _lent(lenders, told) or together(score, told, team, group)


def _lent(lenders: Lenders | None, told: Sequence[Any]) -> dict[str, float] | None:
    # Here, and not in the driver's loop, which a storage that is slow to answer would keep from everything else.
    config: CampaignConfig = told[1]
    return lenders.score(config) if lenders is not None else None
