"""The Ray Train run of a trial, and of those that follow it: its workers, and how it is started."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import ray
import ray.train
import torch
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend
from ray.train.v2._internal.execution.controller import TrainController

from raydistill.errors import RayDistillError, TrialError, TrialInterruptedError
from raydistill.orchestration.asking import ask
from raydistill.orchestration.halting import noticing, take_sigterm_as_notice
from raydistill.orchestration.holding import held
from raydistill.orchestration.logs import TRIAL_LOG, Notes, logged
from raydistill.orchestration.meeting import Meeting, join, open_meeting
from raydistill.orchestration.room import free_orphaned_room
from raydistill.orchestration.scratch import TuneStorage
from raydistill.orchestration.study import Study
from raydistill.orchestration.telling import Guide, send, settle
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.places import process_group_of
from raydistill.planning.records import MRR, TrialKey, TrialRecord

UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")


class Ended(NamedTuple):
    """How the workers of a run ended.

    Attributes:
        key: the trial they had taken up last.
        interrupted: whether they were told to end before it had ended, and saved where they stood.
    """

    key: TrialKey
    interrupted: bool


class NoticingBackend(_TorchBackend):
    """Ray's own, whose workers take SIGTERM as a notice, and listen to nobody but each other.

    Training runs in a thread of a worker, and only its main thread may ask for signals.
    """

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Called before training starts."""
        size = len(worker_group)
        worker_group.execute(_set_torch_distributed_env_vars)
        if size > 1:
            meeting = worker_group.execute_single(0, _open_meeting)
            asked = (size, backend_config.backend, backend_config.timeout_s)
            ray.get([worker_group.execute_single_async(rank, _join, meeting, rank, *asked) for rank in range(size)])
        worker_group.execute(take_sigterm_as_notice)


def _open_meeting() -> Meeting:
    return open_meeting(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _join(meeting: Meeting, rank: int, size: int, group: str, seconds: float) -> None:
    join(meeting, rank, size, group, seconds, ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


class NoticingTorchConfig(TorchConfig):
    """What makes Ray take it."""

    @property
    def backend_cls(self) -> type[NoticingBackend]:
        """The back end."""
        return NoticingBackend


class LeanTrainer(TorchTrainer):
    """Ray's own without three processes per run, each of which takes seconds to start.

    The manager of Ray datasets has none. The cleaner of placement groups is detached, so that on a cluster of somebody else it would outlive a driver that was
    killed; `room.py` does its work. The controller runs in the process of the trial, which only waits for it, and without which it could not go on.
    """

    def _initialize_and_run_controller(self, **arguments: Any) -> ray.train.Result:
        controller = TrainController(**arguments)
        asyncio.run(controller.run())  # type: ignore[no-untyped-call]
        return controller.get_result()

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [one for one in callbacks if type(one).__name__ not in UNUSED]


def scaling(study: Study, workers: int) -> ray.train.ScalingConfig:
    """What the workers of a trial get, and where."""
    resources = study.config.resources
    per_worker = {"CPU": study.cpus}
    if resources.gpus_per_worker > 0:
        per_worker["GPU"] = resources.gpus_per_worker
    return ray.train.ScalingConfig(
        num_workers=workers,
        use_gpu=resources.gpus_per_worker > 0,
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
        work,  # type: ignore[arg-type]
        train_loop_config={"study": study, "key": key, "coordinator": coordinator, "workshop": workshop},
        torch_config=NoticingTorchConfig(backend=process_group_of(study.config.resources)),
        scaling_config=scaling(study, workers),
        run_config=ray.train.RunConfig(name="train", storage_path=storage.path, storage_filesystem=storage.filesystem),
    )
    try:
        ended: Ended = trainer.fit().return_value  # type: ignore[attr-defined]
        return ended
    finally:
        if storage.remote is not None:
            storage.remove()


def work(settings: dict[str, Any]) -> Ended:
    """What every worker does: trial after trial, as long as there are others for the same workers. To start them again would take seconds for each."""
    study, coordinator, key = settings["study"], settings["coordinator"], settings["key"]
    device = get_device()
    if device.type == "cuda":
        # All workers of a machine see all their GPUs, and the first one is not everybody's.
        torch.cuda.set_device(device)
    while True:
        if _work_on(study, key, coordinator, settings["workshop"]):
            return Ended(key, True)
        first = ray.train.get_context().get_world_rank() == 0
        following = broadcast_from_rank_zero(ask(coordinator.take_up.remote(key)) if first else None)
        if following is None:
            return Ended(key, False)
        key = tuple(following)


def _work_on(study: Study, key: TrialKey, coordinator: Any, workshop: Workshop) -> bool:
    """Train, and after each epoch let rank 0 report and all ranks hear the answer; True = it was interrupted."""
    record: TrialRecord = ask(coordinator.record.remote(key))
    if record.status != "running":
        return False
    try:
        _train(study, record, coordinator, workshop)
    except TrialInterruptedError:
        return True
    except RayDistillError as problem:
        # Other errors may be the echo of another worker's death, after which the run is started again.
        settle(coordinator, key, problem)
        raise
    return False


def _train(study: Study, record: TrialRecord, coordinator: Any, workshop: Workshop) -> None:
    context = ray.train.get_context()
    first = context.get_world_rank() == 0
    workshop.set_threads(study.threads)
    directory = study.directory(record.identity)
    finished, guide = False, Guide(coordinator, record.key)
    with contextlib.ExitStack() as stack:
        if first:
            stack.enter_context(held(directory))
            stack.enter_context(logged(directory / TRIAL_LOG, Notes(coordinator, record.key)))
        notice = stack.enter_context(noticing(coordinator, record.key, first=first))
        reports = workshop.run_trial(study.resolve(record.parameters), directory, workshop.world(True), guide, notice)
        # What is not closed keeps model and data of a trial that was stopped beside those of the next.
        for report in stack.enter_context(contextlib.closing(reports)):  # type: ignore[type-var]
            answer = send(coordinator, record.key, report) if first else None
            stop = broadcast_from_rank_zero(answer)
            ray.train.report({"epoch": report.epoch, MRR: report.metrics.get(MRR)})
            finished = report.finished
            # A finished trial is not left at once: the generator has its own last words.
            if stop and not finished:
                return
    if guide.waits:
        ask(coordinator.pause.remote(record.key))
    elif not finished and first:
        raise TrialError("the workers ended without saying that they were finished")
