"""Scoring a promoted checkpoint on the test split, as a task of its own: it decides nothing, so nothing waits for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ray

from raydistill.config.schema import CampaignConfig
from raydistill.orchestration.coordinator import ask
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.places import least_cpus
from raydistill.planning.state import CampaignState


@dataclass
class Scorings:
    """The promotions that are being scored, by the references of their answers.

    Attributes:
        config: the campaign.
        coordinator: handle of the coordinator.
        workshop: what an evaluation runs.
        places: lineage and grade of each.
    """

    config: CampaignConfig
    coordinator: Any
    workshop: Workshop
    places: dict[Any, tuple[str, int]] = field(default_factory=dict)

    def start(self, state: CampaignState, free: int) -> None:
        """Score promotions where no trial wants the room: tests decide nothing, so nothing should wait for them."""
        under_way = {state.promotions[place].digest for place in self.places.values()}
        for place, promotion in state.promotions.items():
            if place in state.tests or promotion.digest in under_way:
                continue
            twin = _tested_twin(state, promotion.digest)
            if twin is not None:
                ask(self.coordinator.record_test.remote(*place, twin))
            elif free > 0:
                under_way.add(promotion.digest)
                self.places[_start(promotion.checkpoint, self.config, self.workshop)] = place
                free -= 1

    def finish(self, reference: Any) -> None:
        """Record what a promoted checkpoint scored."""
        place = self.places.pop(reference)
        ask(self.coordinator.record_test.remote(*place, ask(reference)))

    def cancel(self) -> None:
        """End what is under way."""
        for reference in self.places:
            ray.cancel(reference, force=True)
        self.places.clear()


def _tested_twin(state: CampaignState, digest: str) -> dict[str, float] | None:
    """What an equal checkpoint of another lineage scored."""
    places = (place for place in state.tests if state.promotions[place].digest == digest)
    return next((state.tests[place] for place in places), None)


def _start(checkpoint: str, config: CampaignConfig, workshop: Workshop) -> Any:
    """Start `score` on the cluster, again elsewhere if its machine is lost; returns the reference of its answer."""
    resources = config.resources
    options = {"num_cpus": least_cpus(resources), "num_gpus": resources.gpus_per_worker, "max_retries": 2}
    return ray.remote(score).options(**options).remote(checkpoint, config, workshop)


def score(checkpoint: str, config: CampaignConfig, workshop: Workshop) -> dict[str, float]:
    """What a promoted checkpoint scores on the test split, and how big it is."""
    workshop.set_threads(max(1, int(least_cpus(config.resources))))
    facts = workshop.checkpoint_facts(checkpoint)
    sizes: dict[str, float] = {name: float(facts[name]) for name in ("layers", "parameters", "bytes")}
    return {**workshop.test_metrics(checkpoint, config), **sizes}
