"""Scoring a promoted checkpoint on the test split, as a task of its own: it decides nothing, so nothing waits for it."""

from __future__ import annotations

from typing import Any

import ray

from raydistill.config.schema import CampaignConfig
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.places import least_cpus


def start_scoring(checkpoint: str, config: CampaignConfig, workshop: Workshop) -> Any:
    """Start `score` on the cluster; returns the reference of its answer."""
    resources = config.resources
    options = {"num_cpus": least_cpus(resources), "num_gpus": resources.gpus_per_worker, "max_retries": 2}
    return ray.remote(score).options(**options).remote(checkpoint, config, workshop)


def score(checkpoint: str, config: CampaignConfig, workshop: Workshop) -> dict[str, float]:
    """What a promoted checkpoint scores on the test split, and how big it is."""
    workshop.set_threads(max(1, int(least_cpus(config.resources))))
    facts = workshop.checkpoint_facts(checkpoint)
    sizes: dict[str, float] = {name: float(facts[name]) for name in ("layers", "parameters", "bytes")}
    return {**workshop.test_metrics(checkpoint, config), **sizes}
