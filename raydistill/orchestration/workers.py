"""The Ray Train run of one trial: its workers, and how it is started."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.torch.config import _TorchBackend

from raydistill.errors import RayDistillError, TrialError, TrialInterruptedError
from raydistill.orchestration.coordinator import ask
from raydistill.orchestration.halting import noticing, take_sigterm_as_notice
from raydistill.orchestration.holding import held
from raydistill.orchestration.logs import TRIAL_LOG, Notes, logged
from raydistill.orchestration.room import free_orphaned_room
from raydistill.orchestration.scratch import TuneStorage
from raydistill.orchestration.study import Study
from raydistill.orchestration.telling import Guide, send, settle
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.places import process_group_of
from raydistill.planning.records import MRR, TrialKey, TrialRecord

UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")


class GiveUp(ray.train.UserCallback):
    """Runs in Ray Train's controller: a trial that is recorded as failed is not started again."""

    def __init__(self, coordinator: Any, key: TrialKey) -> None:
        self.coordinator, self.key = coordinator, key

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise, which ends the run, unless a restart may help."""
        record: TrialRecord = ask(self.coordinator.record.remote(self.key))
        if record.status == "failed":
            raise TrialError(record.reason)


class NoticingBackend(_TorchBackend):
    """Ray's own, whose workers take SIGTERM as a notice. Training runs in a thread of a worker, and only its main thread may ask for signals."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Called before training starts."""
        super().on_start(worker_group, backend_config)
        worker_group.execute(take_sigterm_as_notice)


class NoticingTorchConfig(TorchConfig):
    """What makes Ray take it."""

    @property
    def backend_cls(self) -> type[NoticingBackend]:
        """The back end."""
        return NoticingBackend


class LeanTrainer(TorchTrainer):
    """Ray's own without two processes per run that have nothing to do here.

    The manager of Ray datasets has none. The cleaner of placement groups is detached, so that on a cluster of somebody else it would outlive a driver that was
    killed; `room.py` does its work.
    """

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


def fit(study: Study, key: TrialKey, coordinator: Any, workshop: Workshop, folder: Path, workers: int) -> bool:
    """Run a trial's workers to the end; True = they were told to end before, and saved where they stood.

    Args:
        study: the grade.
        key: the trial.
        coordinator: handle of the coordinator.
        workshop: what to run.
        folder: where Ray Train may put its own files, if the run is local.
        workers: how many.
    """
    free_orphaned_room()
    resources = study.config.resources
    # Started again by Ray a run would wait for as many workers as before, whether or not they fit.
    restarts = resources.max_failures if resources.least_workers == resources.most_workers else 0
    storage = TuneStorage.of(study.store, folder)
    trainer = LeanTrainer(
        work,  # type: ignore[arg-type]
        train_loop_config={"study": study, "key": key, "coordinator": coordinator, "workshop": workshop},
        torch_config=NoticingTorchConfig(backend=process_group_of(resources)),
        scaling_config=scaling(study, workers),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=storage.path,
            storage_filesystem=storage.filesystem,
            callbacks=[GiveUp(coordinator, key)],  # type: ignore[list-item]
            failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]
                max_failures=restarts, controller_failure_limit=max(3, restarts) if restarts else 0
            ),
        ),
    )
    try:
        return bool(trainer.fit().return_value)  # type: ignore[attr-defined]
    finally:
        if storage.remote is not None:
            storage.remove()


def work(settings: dict[str, Any]) -> bool:
    """What every worker does: train, and after each epoch let rank 0 report and all ranks hear the answer; True = it was interrupted."""
    study, key, coordinator = settings["study"], settings["key"], settings["coordinator"]
    record: TrialRecord = ask(coordinator.record.remote(key))
    if record.status != "running":
        return False
    device = get_device()
    if device.type == "cuda":
        # All workers of a machine see all their GPUs, and the first one is not everybody's.
        torch.cuda.set_device(device)
    try:
        _train(study, record, coordinator, settings["workshop"])
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
        notice = stack.enter_context(noticing(coordinator, record.key, listens=first))
        for report in workshop.run_trial(
            study.resolve(record.parameters), directory, workshop.world(True), guide, notice
        ):
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
