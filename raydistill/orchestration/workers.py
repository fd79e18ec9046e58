"""The Ray Train run of one trial: its workers, and how it is started."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import ray.train
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchTrainer

from raydistill.errors import RayDistillError, TrialError
from raydistill.orchestration.coordinator import ask
from raydistill.orchestration.holding import held
from raydistill.orchestration.logs import TRIAL_LOG, Notes, logged
from raydistill.orchestration.room import free_orphaned_room
from raydistill.orchestration.scratch import TuneStorage
from raydistill.orchestration.study import Study
from raydistill.orchestration.telling import Guide, send, settle
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.records import MRR, TrialKey, TrialRecord


class GiveUp(ray.train.UserCallback):
    """Runs in Ray Train's controller: a trial that is recorded as failed is not started again."""

    def __init__(self, coordinator: Any, key: TrialKey) -> None:
        self.coordinator, self.key = coordinator, key

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise, which ends the run, unless a restart may help."""
        record: TrialRecord = ask(self.coordinator.record.remote(self.key))
        if record.status == "failed":
            raise TrialError(record.reason)


def fit(study: Study, key: TrialKey, coordinator: Any, workshop: Workshop, folder: Path) -> None:
    """Run a trial's workers to the end.

    Args:
        study: the grade.
        key: the trial.
        coordinator: handle of the coordinator.
        workshop: what to run.
        folder: where Ray Train may put its own files, if the run is local.
    """
    free_orphaned_room()
    resources = study.config.resources
    per_worker = {"CPU": study.cpus}
    if resources.gpus_per_worker > 0:
        per_worker["GPU"] = resources.gpus_per_worker
    storage = TuneStorage.of(study.store, folder)
    trainer = TorchTrainer(
        work,
        train_loop_config={"study": study, "key": key, "coordinator": coordinator, "workshop": workshop},
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers_per_trial,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=per_worker,
        ),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=storage.path,
            storage_filesystem=storage.filesystem,
            callbacks=[GiveUp(coordinator, key)],  # type: ignore[list-item]
            failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]
                max_failures=resources.max_failures, controller_failure_limit=3
            ),
        ),
    )
    try:
        trainer.fit()
    finally:
        if storage.remote is not None:
            storage.remove()


def work(settings: dict[str, Any]) -> None:
    """What every worker does: train, and after each epoch let rank 0 report and all ranks hear the answer."""
    study, key, coordinator = settings["study"], settings["key"], settings["coordinator"]
    record: TrialRecord = ask(coordinator.record.remote(key))
    if record.status != "running":
        return
    try:
        _train(study, record, coordinator, settings["workshop"])
    except RayDistillError as problem:
        # Other errors may be the echo of another worker's death, after which the run is started again.
        settle(coordinator, key, problem)
        raise


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
        for report in workshop.run_trial(study.resolve(record.parameters), directory, workshop.world(True), guide):
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
