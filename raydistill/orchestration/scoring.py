"""Scoring promoted checkpoints on the test split, each in a task of its own: tests decide nothing, so nothing waits for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ray

from raydistill.config.schema import CampaignConfig
from raydistill.orchestration.coordinator import ask
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.places import least_cpus
from raydistill.planning.state import CampaignState

Place = tuple[str, int]


@dataclass
class Scorings:
    """The scorings of one campaign.

    Attributes:
        config: the campaign.
        coordinator: handle of the coordinator, which records what they find.
        workshop: what they run.
        running: the places that are being scored, by the reference of the answer.
    """

    config: CampaignConfig
    coordinator: Any
    workshop: Workshop
    running: dict[Any, Place] = field(default_factory=dict)

    def start(self, state: CampaignState, free: int) -> None:
        """Score what was promoted, in as many places as no trial wants. Equal checkpoints are scored once."""
        under_way = {state.promotions[place].digest for place in self.running.values()}
        for place, promotion in state.promotions.items():
            if place in state.tests or promotion.digest in under_way:
                continue
            twin = _tested_twin(state, promotion.digest)
            if twin is not None:
                ask(self.coordinator.record_test.remote(*place, twin))
            elif free > 0:
                under_way.add(promotion.digest)
                self.running[self._start(promotion.checkpoint)] = place
                free -= 1

    def finish(self, reference: Any) -> None:
        """Record what a scoring found.

        Raises:
            RayError: its process died too often.
        """
        place = self.running[reference]
        metrics = ask(reference)
        del self.running[reference]
        ask(self.coordinator.record_test.remote(*place, metrics))

    def cancel(self) -> None:
        """End those that run."""
        for reference in self.running:
            ray.cancel(reference, force=True)
        self.running.clear()

    def _start(self, checkpoint: str) -> Any:
        resources = self.config.resources
        options = {"num_cpus": least_cpus(resources), "num_gpus": resources.gpus_per_worker, "max_retries": 2}
        return ray.remote(score).options(**options).remote(checkpoint, self.config, self.workshop)


def score(checkpoint: str, config: CampaignConfig, workshop: Workshop) -> dict[str, float]:
    """What a promoted checkpoint scores on the test split, and how big it is."""
    workshop.set_threads(max(1, int(least_cpus(config.resources))))
    facts = workshop.checkpoint_facts(checkpoint)
    sizes: dict[str, float] = {name: float(facts[name]) for name in ("layers", "parameters", "bytes")}
    return {**workshop.test_metrics(checkpoint, config), **sizes}


def _tested_twin(state: CampaignState, digest: str) -> dict[str, float] | None:
    """What an equal checkpoint of another lineage scored."""
    places = (place for place in state.tests if state.promotions[place].digest == digest)
    return next((state.tests[place] for place in places), None)
