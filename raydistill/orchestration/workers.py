"""What the workers of a Ray Train run do: a trial, and those that they are given after it."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import ray.train
import torch
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device

from raydistill.devices import keep_to
from raydistill.errors import RayDistillError, TrialError, TrialInterruptedError
from raydistill.orchestration.asking import ask
from raydistill.orchestration.halting import noticing
from raydistill.orchestration.handovers import Following
from raydistill.orchestration.holding import held
from raydistill.orchestration.logs import TRIAL_LOG, Notes, logged
from raydistill.orchestration.orphans import end_with_head
from raydistill.orchestration.study import Study
from raydistill.orchestration.telling import Guide, send, settle
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.records import TrialKey, TrialRecord

logger = logging.getLogger(__name__)


def work(settings: dict[str, Any]) -> tuple[TrialKey, bool]:
    """Trial after trial, as long as there are others for the same workers. To start them again would take seconds for each.

    Args:
        settings: `study`, `key` of the first trial, `coordinator` and `workshop`.

    Returns:
        The trial that was taken up last, and whether it was interrupted: told to end before it had ended, and saved where it stood.
    """
    study, coordinator, key = settings["study"], settings["coordinator"], settings["key"]
    end_with_head()
    device = get_device()
    if device.type == "cuda":
        # All workers of a machine see all their GPUs, and the first one is not everybody's.
        torch.cuda.set_device(device)
    keep_to(study.config.resources.gpus)
    while True:
        if _work_on(study, key, coordinator, settings["workshop"]):
            return key, True
        first = ray.train.get_context().get_world_rank() == 0
        following: Following | None = broadcast_from_rank_zero(ask(coordinator.take_up.remote(key)) if first else None)
        if following is None:
            return key, False
        key, study = following


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
    study.premises.require()
    directory = study.directory(record.identity)
    finished, guide = False, Guide(coordinator, record.key)
    with contextlib.ExitStack() as stack:
        if first:
            stack.enter_context(held(directory))
            stack.enter_context(logged(directory / TRIAL_LOG, Notes(coordinator, record.key)))
        for doubt in study.premises.doubts():
            logger.warning(doubt)
            if not first:
                # Its own log nobody sees.
                ask(coordinator.note.remote(record.key, doubt))
        notice = stack.enter_context(noticing(coordinator, record.key, first=first, alone=False))
        config, world = study.resolve(record.parameters), workshop.world(True)
        reports = workshop.run_trial(config, directory, world, guide, notice, saved=notice.has_saved)
        # What is not closed keeps model and data of a trial that was stopped beside those of the next.
        for report in stack.enter_context(contextlib.closing(reports)):  # type: ignore[type-var]
            # Not to Ray Train, too: nobody asks it, and a report there is one more wait of all workers for each other.
            answer = send(coordinator, record.key, report) if first else None
            stop = broadcast_from_rank_zero(answer)
            finished = report.finished
            # A finished trial is not left at once: the generator has its own last words.
            if stop and not finished:
                return
    if guide.waits:
        ask(coordinator.pause.remote(record.key))
    elif not finished and first:
        raise TrialError("the workers ended without saying that they were finished")
