"""The Ray Train run of a trial, and of those that follow it: how it is started, by the trial's own process.

That trains nothing, so nothing here imports torch: it takes seconds of a core, at the moment when the workers need them.
"""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import ray.train
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raydistill.orchestration.backend import NoticingConfig
from raydistill.orchestration.room import free_orphaned_room
from raydistill.orchestration.scratch import TuneStorage
from raydistill.orchestration.study import Study
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.places import process_group_of
from raydistill.planning.records import TrialKey

UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")


class Ended(NamedTuple):
    """How the workers of a run ended.

    Attributes:
        key: the trial they had taken up last.
        interrupted: whether they were told to end before it had ended, and saved where they stood.
    """

    key: TrialKey
    interrupted: bool


class QuietScaling(FixedScalingPolicy):
    """Ray's own without its coordinator of autoscaling.

    That is a detached actor, which outlives a campaign on a cluster of somebody else, and for whose process the first trial would wait. What makes a cluster grow is
    the placement group of the workers, which waits for its machines.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask for nothing ahead."""

    def _maybe_send_resource_request(self) -> None:
        """Nor again and again."""


class LeanTrainer(DataParallelTrainer):
    """Ray's own `TorchTrainer` without four processes per run or cluster, each of which takes seconds to start, and without torch in this one.

    The manager of Ray datasets has none. The cleaner of placement groups is detached, so that on a cluster of somebody else it would outlive a driver that was
    killed; `room.py` does its work. The controller runs in the process of the trial, which only waits for it, and without which it could not go on.
    """

    def _initialize_and_run_controller(self, **arguments: Any) -> ray.train.Result:
        controller = TrainController(**{**arguments, "scaling_policy": QuietScaling(self.scaling_config)})  # type: ignore[arg-type]
        asyncio.run(controller.run())  # type: ignore[no-untyped-call]
        return controller.get_result()

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        return [one for one in callbacks if type(one).__name__ not in UNUSED]


def scaling(study: Study, workers: int) -> ray.train.ScalingConfig:
    """What the workers of a trial get, and where."""
    resources = study.config.resources
    per_worker = {"CPU": study.cpus}
    if resources.gpus > 0:
        per_worker["GPU"] = resources.gpus
    return ray.train.ScalingConfig(
        num_workers=workers,
        use_gpu=resources.gpus > 0,
        resources_per_worker=per_worker,
        placement_strategy=resources.placement.upper(),
    )


def fit(study: Study, key: TrialKey, coordinator: Any, workshop: Workshop, folder: Path, workers: int) -> Ended:
    """Run workers until a trial, and those that they are given after it, have ended.

    Ray Train is not let start them again: how many may die is counted for each trial, and what is started anew has as many workers as there is room for.

    Args:
        study: the grade.
        key: the trial.
        coordinator: handle of the coordinator.
        workshop: what to run.
        folder: where Ray Train may put its own files, if the run is local.
        workers: how many.

    Raises:
        ray.train.TrainingFailedError: a worker died, or could not be started.
    """
    free_orphaned_room()
    storage = TuneStorage.of(study.store, folder)
    trainer = LeanTrainer(
        _work,
        train_loop_config={"study": study, "key": key, "coordinator": coordinator, "workshop": workshop},
        backend_config=NoticingConfig(process_group_of(study.config.resources)),
        scaling_config=scaling(study, workers),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=storage.path,
            storage_filesystem=storage.filesystem,
            failure_config=ray.train.FailureConfig(**_no_retries()),
        ),
    )
    try:
        key, interrupted = trainer.fit().return_value  # type: ignore[attr-defined]
        return Ended(key, interrupted)
    finally:
        if storage.remote is not None:
            storage.remove()


def _no_retries() -> dict[str, Any]:
    """None after a worker's death, nor, with a Ray that counts those apart, after that of a machine which was told to end."""
    known = {one.name for one in dataclasses.fields(ray.train.FailureConfig)}
    return {name: 0 for name in ("max_failures", "max_preemption_failures") if name in known}


def _work(settings: dict[str, Any]) -> tuple[TrialKey, bool]:
    # In the workers alone.
    from raydistill.orchestration.workers import work

    return work(settings)
