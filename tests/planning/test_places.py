"""How trials share a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from raydistill.config.schema import ResourcesSection
from raydistill.planning.places import capacity, cpus_per_worker, places_of_a_trial, share_out


@pytest.mark.parametrize(
    ("asked", "cpus", "gpus", "trials", "places", "each", "at_once"),
    [
        ({}, 2, 0, 1, 2, 2, 1),
        ({}, 2, 0, 4, 2, 1, 2),
        ({}, 16, 0, 4, 16, 4, 4),
        ({"workers_per_trial": 2}, 5, 0, 1, 2, 2, 1),
        ({"workers_per_trial": 2}, 1, 0, 1, 0, 1, 0),
        ({"cpus_per_worker": 0.5}, 2, 0, 8, 4, 0.5, 4),
        ({"concurrent_trials": 3}, 2, 0, 8, 3, 1, 3),
        ({"gpus_per_worker": 1}, 16, 2, 4, 2, 8, 2),
        ({"gpus_per_worker": 1}, 64, 8, 16, 8, 8, 8),
        ({"gpus_per_worker": 0.25}, 32, 4, 32, 16, 2, 16),
        ({"gpus_per_worker": 1, "workers_per_trial": 2}, 32, 4, 8, 2, 8, 2),
        ({"gpus_per_worker": 0.1}, 16, 0.3, 3, 3, 5, 3),
    ],
)
def test_every_device_is_used(
    asked: dict[str, Any], cpus: float, gpus: float, trials: int, places: int, each: float, at_once: int
) -> None:
    """GPUs would stand idle because a trial was counted in CPUs, or trials be started that never get room."""
    resources = ResourcesSection(**asked)
    assert capacity(resources, cpus, gpus) == places
    assert cpus_per_worker(resources, cpus, places, trials) == each
    if places:
        assert places // places_of_a_trial(resources, cpus, places, each) == at_once


@pytest.mark.parametrize(
    ("free", "waiting", "shares"),
    [
        (4, [(1, 8)], [4]),
        (4, [(1, 8), (1, 8)], [2, 2]),
        (4, [(1, 1), (1, 8)], [1, 3]),
        (2, [(1, 8), (1, 8), (1, 8)], [1, 1, 0]),
        (3, [(2, 1), (2, 1)], [1, 0]),
        (1, [(2, 1), (1, 1)], [0, 0]),
        (0, [(1, 1)], [0]),
        (4, [], []),
    ],
)
def test_free_places_are_shared_and_nobody_overtakes(
    free: int, waiting: list[tuple[int, int]], shares: list[int]
) -> None:
    """A wide trial would wait for ever behind narrow ones, or more trials start than there is room for."""
    assert share_out(free, waiting) == shares


@pytest.mark.parametrize(("widest", "each"), [(4, 4), (64, 16), (0, 1)])
def test_worker_gets_no_more_than_one_machine_has(widest: float, each: float) -> None:
    """A share of four machines, asked for on one of them: the campaign would wait for ever, and say nothing."""
    assert cpus_per_worker(ResourcesSection(), 16, 16, 1, widest) == each
