"""The Ray Train runs of a trial and of those after it, one after another, each with as many workers as there is room for.

Ray Train has elastic runs of its own (`ScalingConfig(num_workers=(least, most))`, 2.60), which are not used: they count the CPUs of the cluster, not
the free ones, so that two trials at once take each other's; they look every 20 seconds, and a worker group that was sized for a machine just lost waits for
it; and they grow by killing workers, without a word to the training in them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray.train
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from raydistill.errors import TeacherError
from raydistill.orchestration.asking import ask, unwrapped
from raydistill.orchestration.fitting import Ended, fit
from raydistill.orchestration.handovers import LINGER_SECONDS, Following
from raydistill.orchestration.machines import free_machines
from raydistill.orchestration.study import Study
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.places import workers_that_fit
from raydistill.planning.records import TrialKey

logger = logging.getLogger(__name__)
ROOM_SECONDS = LINGER_SECONDS + 5.0
"""How long a trial waits for the room of all its workers before it begins with fewer: that of the trial before it is not given back at once."""
START_SECONDS = 60.0
"""How long workers may take to start before they are counted anew: a machine that was lost is on Ray's books for half a minute more."""
GROW_SECONDS = 30.0
"""How long a run with too few workers is left alone: each start costs several seconds."""


LOOK_SECONDS = 5.0
"""Between looks at the room that there is. Twice in a row is no trial between two processes."""


class WorkerRuns:
    """The runs of a trial, and of those that the same workers are given after it. `run` blocks, in a thread; the rest is called by another.

    Args:
        study: of the first trial. Those of the others have as many workers, with as many CPUs.
        key: the first trial.
        coordinator: handle of the coordinator.
        workshop: what to run.
        folder: where Ray Train may put its own files.
    """

    def __init__(self, study: Study, key: TrialKey, coordinator: Any, workshop: Workshop, folder: Path) -> None:
        self.study, self.key, self.coordinator, self.workshop, self.folder = study, key, coordinator, workshop, folder
        self.problem: BaseException | None = None
        self.halted = self.last = False
        self.workers, self.look_next, self.room_seen = 0, 0.0, False
        self._turning, self._over, self._late, self._tried = threading.Lock(), False, 0, 0
        resources = study.config.resources
        self.elastic = resources.least_workers < resources.most_workers

    def hand_over(self, study: Study, key: TrialKey) -> bool:
        """Give the workers the next trial; False where there are none any more."""
        with self._turning:
            if self._over or not ask(self.coordinator.hand_over.remote(self.key, Following(key, study))):
                return False
            self.study, self.key = study, key
            return True

    def dismiss(self) -> None:
        """Let the workers leave, which would otherwise wait for another trial for a while."""
        with self._turning:
            # Those of others may be at work on the trial by now, and are not to be told.
            if not self._over:
                ask(self.coordinator.hand_over.remote(self.key, None))

    def run(self) -> None:
        """Run workers until the trial has ended and no other is given to them, or the campaign ends; what else went wrong is left in `problem`."""
        if self.elastic:
            os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = f"{START_SECONDS:g}"
        number, deaths = 0, Counter[TrialKey]()
        while True:
            problem = None
            try:
                ended = self._run_once(self.folder / str(number))
                again = ended.interrupted or ended.key != self.key
            except BaseException as raised:
                # Whatever ended the run is looked at by the thread that waits for it.
                problem, again = raised, True
            number, key, late = number + 1, self.key, problem is not None and _too_late(problem)
            self._late = self._late + 1 if late else 0
            # Asked in any case, because what was said of this run is not to excuse the death of the next; but where this process ends, it is for the search to hear.
            left = not self.last and ask(self.coordinator.left.remote(key))
            deaths[key] += problem is not None and not (late or left or _untaught(problem))
            given_up = deaths[key] > self.study.config.resources.max_failures
            if again and not given_up and not self.last and ask(self.coordinator.goes_on.remote(key)):
                continue
            if self._ends_with(key):
                self.problem, self.halted = problem if given_up else None, again and not given_up
                return

    def _ends_with(self, key: TrialKey) -> bool:
        """Whether it is over with this trial; not where another one was given meanwhile."""
        with self._turning:
            self._over = self.key == key
            return self._over

    def _run_once(self, folder: Path) -> Ended:
        self.workers = 0
        ask(self.coordinator.enter.remote(self.key))
        workers = self._wait_for_room()
        if self._late > 1:
            # A lost machine is off the books by now. So what is free is not free in one place, and as many will never find room.
            workers = max(self.study.config.resources.least_workers, min(workers, self._tried - 1))
        self._tried = workers
        logger.info("trial %s begins with %d workers", self.key, workers)
        self.room_seen, self.look_next, self.workers = False, time.monotonic() + GROW_SECONDS, workers
        return fit(self.study, self.key, self.coordinator, self.workshop, folder, workers)

    def look(self) -> None:
        """Where there has been room for more workers for a while, let the trial save and start again with them."""
        now = time.monotonic()
        if not self.elastic or not 0 < self.workers < self.study.workers or now < self.look_next:
            return
        room, self.look_next = self._room(), now + LOOK_SECONDS
        # On one machine alone, all have to move.
        least = self.workers + 1 if self.study.config.resources.placement == "strict_pack" else 1
        if room >= least and self.room_seen:
            logger.info("trial %s has %d workers, and there is room for %d more", self.key, self.workers, room)
            ask(self.coordinator.halt.remote(self.key))
            self.look_next = now + GROW_SECONDS
        self.room_seen = room >= least

    def _wait_for_room(self) -> int:
        wanted, least = self.study.workers, self.study.config.resources.least_workers
        deadline = time.monotonic() + (ROOM_SECONDS if self.elastic else 0.0)
        while self.elastic and (room := self._room()) < wanted:
            if time.monotonic() > deadline:
                # Where there is not even room for the least, asking for it is what makes a cluster grow.
                return max(least, room)
            time.sleep(0.5)
        return wanted

    def _room(self) -> int:
        return workers_that_fit(self.study.config.resources, self.study.cpus, free_machines())


def _too_late(problem: BaseException) -> bool:
    """Whether workers were only not there in time."""
    return isinstance(problem, ray.train.ControllerError) and isinstance(
        problem.controller_failure, WorkerGroupStartupTimeoutError
    )


def _untaught(problem: BaseException) -> bool:
    """Whether workers only left a teacher that was damaged; another one takes its place, or the campaign is ending."""
    failures = problem.worker_failures if isinstance(problem, ray.train.WorkerGroupError) else {}
    return any(isinstance(unwrapped(one), TeacherError) for one in failures.values())
