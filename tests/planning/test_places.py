"""How trials share a cluster."""

from __future__ import annotations

import math
from typing import Any

import pytest

from raydistill.config.resources import ResourcesSection
from raydistill.planning.places import (
    capacity,
    cpus_per_worker,
    gpus_for_each,
    places_of_a_trial,
    process_group_of,
    share_of_a_trial,
    share_out,
    workers_that_fit,
)


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
        ({"gpus_per_worker": 0.4}, 32, 2, 8, 4, 8, 4),
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


def test_trial_takes_a_place_even_where_there_is_none() -> None:
    """The only GPU machine is lost: a weight of nothing would be divided by."""
    assert places_of_a_trial(ResourcesSection(gpus_per_worker=1), 16, 0, 8) == 1
    assert places_of_a_trial(ResourcesSection(workers_per_trial=2), 1, 0, 1) == 1


@pytest.mark.parametrize(
    ("asked", "machines", "share"),
    [
        ({"workers_per_trial": 2}, [{"CPU": 4}, {"CPU": 2}], (2, 2)),
        ({"gpus_per_worker": 1}, [{"CPU": 16}, {"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}], (1, 8)),
        ({}, [{"CPU": 4}, {"CPU": 4}], (1, 4)),
    ],
)
def test_share_of_a_trial_fits_on_whole_machines(
    asked: dict[str, Any], machines: list[dict[str, float]], share: tuple[int, float]
) -> None:
    """A worker that is given what no machine has waits for ever, and the campaign says nothing."""
    resources = ResourcesSection(**asked)
    cpus, gpus = (sum(one.get(kind, 0) for one in machines) for kind in ("CPU", "GPU"))
    widest = max(one["CPU"] for one in machines)
    assert share_of_a_trial(resources, cpus, gpus, widest, 1, 1, machines) == share


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


@pytest.mark.parametrize(
    ("free", "waiting", "to_come", "shares"),
    [
        (4, [(1, 1)], 2, [1]),
        (3, [(1, 16)], 2, [1]),
        (8, [(1, 16)], 2, [6]),
        (8, [(2, 16)], 1, [3]),
        (1, [(1, 16)], 3, [1]),
        (0, [(1, 16)], 1, [0]),
    ],
)
def test_grades_that_are_still_to_move_keep_a_place(
    free: int, waiting: list[tuple[int, int]], to_come: int, shares: list[int]
) -> None:
    """A grade of sixteen trials would take every place, and those below it move when it is over: a pipeline in name only."""
    assert share_out(free, waiting, to_come) == shares


@pytest.mark.parametrize(("widest", "each"), [(4, 4), (64, 16), (0, 1)])
def test_worker_gets_no_more_than_one_machine_has(widest: float, each: float) -> None:
    """A share of four machines, asked for on one of them: the campaign would wait for ever, and say nothing."""
    assert cpus_per_worker(ResourcesSection(), 16, 16, 1, widest) == each


ELASTIC = {"workers_per_trial": {"min": 1, "max": 4}}


@pytest.mark.parametrize(
    ("asked", "cpus", "gpus", "trials", "workers", "each", "at_once"),
    [
        (ELASTIC, 4, 0, 1, 4, 1, 1),
        (ELASTIC, 4, 0, 2, 2, 1, 2),
        (ELASTIC, 4, 0, 8, 1, 1, 4),
        (ELASTIC, 3, 0, 1, 3, 1, 1),
        (ELASTIC, 16, 0, 1, 4, 4, 1),
        ({"workers_per_trial": {"min": 2, "max": 4}}, 5, 0, 8, 2, 1, 2),
        ({"workers_per_trial": {"min": 2, "max": 4}}, 3, 0, 8, 3, 1, 1),
        ({**ELASTIC, "gpus_per_worker": 1}, 64, 8, 2, 4, 8, 2),
        ({**ELASTIC, "gpus_per_worker": 1, "cpus_per_worker": 1}, 64, 4, 1, 4, 1, 1),
        ({**ELASTIC, "gpus_per_worker": 0.5}, 64, 1, 1, 2, 32, 1),
        ({**ELASTIC, "concurrent_trials": 2}, 2, 0, 8, 4, 1, 2),
    ],
)
def test_elastic_trials_share_a_cluster_evenly(
    asked: dict[str, Any], cpus: float, gpus: float, trials: int, workers: int, each: float, at_once: int
) -> None:
    """The first trial would take every device and the others wait; or each get one worker while most devices stand idle."""
    resources = ResourcesSection(**asked)
    places = capacity(resources, cpus, gpus)
    assert share_of_a_trial(resources, cpus, gpus, math.inf, places, trials) == (workers, each)
    assert places // places_of_a_trial(resources, cpus, places, each, workers) == at_once


@pytest.mark.parametrize(
    ("asked", "each", "free", "fit"),
    [
        ({}, 1, [{"CPU": 2.0}, {"CPU": 1.0}, {}], 3),
        ({}, 2, [{"CPU": 3.0}, {"CPU": 3.0}], 2),
        ({"placement": "strict_pack"}, 1, [{"CPU": 2.0}, {"CPU": 3.0}], 3),
        ({"gpus_per_worker": 0.1}, 1, [{"CPU": 8.0, "GPU": 0.3}, {"CPU": 8.0}], 3),
        ({"gpus_per_worker": 2}, 1, [{"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 1.0}], 1),
        ({"gpus_per_worker": 0.4}, 1, [{"CPU": 8.0, "GPU": 2.0}], 4),
        ({"gpus_per_worker": 0.4}, 1, [{"CPU": 8.0, "GPU": 1.4}], 3),
        ({}, 1, [], 0),
    ],
)
def test_workers_are_counted_machine_by_machine(
    asked: dict[str, Any], each: float, free: list[dict[str, float]], fit: int
) -> None:
    """Half a worker on each of two machines is none: the trial would wait for ever for what adds up on paper."""
    assert workers_that_fit(ResourcesSection(**asked), each, free) == fit


@pytest.mark.parametrize(("gpus", "group"), [(0, "gloo"), (0.25, "gloo"), (1, "nccl"), (2, "nccl")])
def test_workers_that_share_a_gpu_do_not_use_nccl(gpus: float, group: str) -> None:
    """NCCL ends with `Duplicate GPU detected` where two workers of a trial are on one GPU."""
    assert process_group_of(ResourcesSection(gpus_per_worker=gpus)) == group


def test_worker_kept_on_one_machine_leaves_room_for_the_others_there() -> None:
    """Two workers with all CPUs of a machine each, which have to be on one machine."""
    resources = ResourcesSection(workers_per_trial=2, placement="strict_pack")
    assert share_of_a_trial(resources, 16, 0, 4, 8, 1) == (2, 2)


@pytest.mark.parametrize(
    ("workers", "gpus", "each"), [(2, 2.5, 1.0), (1, 0.9, 0.0), (3, 2, 0.5), (6, 1, 0.1666), (7, 1, 0.1428)]
)
def test_parts_of_a_gpu_add_up_to_no_more_than_one(workers: int, gpus: float, each: float) -> None:
    """Ray rounds to ten-thousandths: six times a sixth is more than a GPU, and the sixth worker waits for ever."""
    assert gpus_for_each(workers, gpus) == each
    assert round(each * 10_000) * -(-workers // max(1, int(gpus))) <= 10_000
