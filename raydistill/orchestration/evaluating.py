"""Scoring a checkpoint by several processes of a cluster: for entities whose vectors, or whose encoding, are too much for one."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from ray.exceptions import RayError
from ray.util import remove_placement_group

from raydistill.config.resources import ResourcesSection
from raydistill.errors import ConfigError, ProcessError, RoomError, ScoringError
from raydistill.orchestration.cluster import connected
from raydistill.orchestration.depot import Depot
from raydistill.orchestration.joining import awaited_room
from raydistill.orchestration.losses import head_watched
from raydistill.orchestration.machines import Machines
from raydistill.orchestration.premises import release_here
from raydistill.orchestration.submission import absolute
from raydistill.orchestration.together import ATTEMPTS, Team, together
from raydistill.orchestration.variables import Variables
from raydistill.planning.places import gpus_for_each, least_cpus, workers_that_fit

if TYPE_CHECKING:
    from raydistill.evaluation.report import LinkPredictionReport
    from raydistill.training.gather import World

logger = logging.getLogger(__name__)


def evaluate_together(
    checkpoint: str,
    data: str,
    split: str,
    rerank: tuple[int, float] | None,
    entity_bits: int,
    workers: int,
    variables: Mapping[str, str] | None = None,
) -> LinkPredictionReport:
    """What `training.evaluate.evaluate_checkpoint` reports, by so many processes, on the cluster that RAY_ADDRESS names or on one of this machine.

    Each gets an even share of the CPUs, and of the GPUs where there are any; where others use them, it waits. Machines that may still join are waited for, too. What
    lies elsewhere is fetched on every machine, with `variables` in the environment; local folders have to be seen by all.

    Raises:
        ConfigError: there is no room for so many, or the cluster cannot be reached.
        ScoringError: the processes died, again and again; or machines have different files under the same path, or another raydistill.
        ClusterError: the head of the cluster is lost. Where that cannot be said it ends the process.
        RayDistillError: as `evaluate_checkpoint` has it.
    """
    told, deaths = (Variables(variables or {}), absolute(checkpoint), absolute(data), split, rerank, entity_bits), 0
    with connected(), head_watched() as head:
        while True:
            team = _team(workers)
            room = team.room()
            try:
                return cast("LinkPredictionReport", together(_evaluate, (*told, max(1, int(team.cpus))), team, room))
            except RoomError as problem:
                logger.warning("%s; waiting for it", problem.received)
            except ProcessError as problem:
                deaths += 1
                if deaths == ATTEMPTS:
                    raise _given_up(workers, problem) from problem
                logger.warning("%s; they begin anew", problem.received)
            except RayError:
                head.require()
                raise
            finally:
                remove_placement_group(room)


def _given_up(workers: int, problem: ProcessError) -> ScoringError:
    return ScoringError(
        f"{workers} processes have begun {ATTEMPTS} times, the last time {problem.received}",
        expected=problem.expected,
        consequence="nothing was scored",
        remedy="give it more workers, or machines with more memory",
    )


def _team(workers: int) -> Team:
    """So many, on the machines that are there, or join while there is no room for them."""
    room = awaited_room(ResourcesSection(workers_per_trial=workers))
    resources = ResourcesSection(workers_per_trial=workers, gpus_per_worker=gpus_for_each(workers, room.gpus))
    if workers_that_fit(resources, least_cpus(resources), room.machines) < workers:
        raise ConfigError(
            f"--workers {workers} on a cluster of {room.cpus:g} CPUs and {room.gpus:g} GPUs",
            expected="a CPU for each, on the machine of its GPU where there are any",
            consequence="they would wait for room for ever",
            remedy="ask for fewer, or name a larger cluster in RAY_ADDRESS",
        )
    return Team.of(resources, *Machines(resources, room).share(1))


def _evaluate(
    variables: Variables,
    checkpoint: str,
    data: str,
    split: str,
    rerank: tuple[int, float] | None,
    entity_bits: int,
    threads: int,
) -> LinkPredictionReport:
    variables.set()
    import torch

    from raydistill.kg.manifest import read_manifest
    from raydistill.training.evaluate import evaluate_checkpoint
    from raydistill.training.gather import World
    from raydistill.training.manifest import manifest_digest, verify_checkpoint

    torch.set_num_threads(threads)
    depot, world = Depot(), World.from_process_group()
    here = depot.checkpoint(checkpoint, verify_checkpoint), depot.dataset(data)
    _require_equal(world, str(release_here()), manifest_digest(here[0]), read_manifest(here[1])["fingerprint"])
    return evaluate_checkpoint(*here, split, rerank, entity_bits=entity_bits, world=world)


def _require_equal(world: World, *ours: str) -> None:
    """Refuse to rank with parts of different models: their counts would add up to a score of neither.

    Args:
        world: who ranks.
        ours: this process's code, checkpoint and dataset, by what identifies their content.
    """
    first = world.agree("\n".join(ours)).split("\n")
    other = [
        name for name, one, its in zip(("raydistill", "checkpoint", "dataset"), first, ours, strict=True) if one != its
    ]
    if other:
        raise ScoringError(
            f"{os.uname().nodename} has another {' and another '.join(other)} than the first process",
            expected="the same files under the same paths, and the same raydistill, on every machine of the cluster",
            consequence="parts of different models would be added up to one score",
            remedy="copy or mount the same checkpoint and dataset everywhere, or name them in a bucket",
        )
