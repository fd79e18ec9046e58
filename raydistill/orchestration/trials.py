"""The two ways a trial runs inside Ray Tune, with one behaviour.

`InlineTrial` trains in the trial's own process, which is then used for the next trial. `TrainTrial` starts a Ray Train run of several workers and
watches it. Both report to the coordinator, which says when to stop; so a trial always ends by itself, and Tune never has to kill one. (When
Tune kills a trial, the placement group of its workers is not freed.)
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from raydistill.errors import TrialError, TrialInterruptedError
from raydistill.orchestration.asking import ask
from raydistill.orchestration.halting import SigtermNotice, noticing, sigterm_notice, take_sigterm_as_notice
from raydistill.orchestration.holding import held
from raydistill.orchestration.logs import TRIAL_LOG, Notes, logged
from raydistill.orchestration.orphans import end_with_head
from raydistill.orchestration.study import Study
from raydistill.orchestration.telling import Guide, send, settle
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.records import MRR, TrialRecord

if TYPE_CHECKING:
    from raydistill.orchestration.elastic import WorkerRuns
    from raydistill.training.trial import EpochReport

logger = logging.getLogger(__name__)
JOIN_SECONDS = 60.0
NOTICE_SECONDS = 5.0
REST_SECONDS = 60.0


class _Trial(tune.Trainable):
    """What both have in common: the trial is named by its number, and Ray keeps nothing but a pointer."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], runner: Any, coordinator: Any, workshop: Workshop
    ) -> None:
        """Called by Tune once per process, with what `tune.with_parameters` was given."""
        self.runner, self.coordinator, self.workshop = runner, coordinator, workshop
        take_sigterm_as_notice()
        end_with_head()
        self.start(config["number"])

    def start(self, number: int) -> None:
        """Turn to a trial, of another study perhaps than the one before. Work begins with the first step."""
        self.study: Study = ask(self.runner.study.remote(number))
        self.key = self.study.key(number)

    def step(self) -> dict[str, Any]:
        """Work to the next report of the trial, or to its end."""
        result = self.work()
        # The word may have come after the trial's last look, when nothing was left to save; another trial is not to be begun then.
        return self.rest() if result["done"] and sigterm_notice().told else result

    def work(self) -> dict[str, Any]:
        """What a step is: the epoch it reports, and whether the trial is over for this process."""
        raise NotImplementedError

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Our checkpoints are the truth; Ray's only says whose they are."""
        (Path(checkpoint_dir) / "pointer.json").write_text(json.dumps(self.key))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load: `run_trial` resumes from its own checkpoints."""

    def rest(self) -> dict[str, Any]:
        """After an interruption: end with the process; or wait for the end of the campaign, so that no other trial takes this one's place."""
        sigterm = sigterm_notice()
        if sigterm.told:
            ask(self.coordinator.leave.remote(self.key))
            sigterm.leave()
        time.sleep(REST_SECONDS)
        return {"done": True}


class InlineTrial(_Trial):
    """A trial in this process."""

    def start(self, number: int) -> None:
        """Turn to a trial."""
        super().start(number)
        self.reports: Iterator[EpochReport] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process."""
        self.cleanup()
        self.start(new_config["number"])
        return True

    def work(self) -> dict[str, Any]:
        """Train one epoch, report it, and end where the coordinator says so."""
        while True:
            try:
                if self.reports is None:
                    self.reports = self._train()
                report = next(self.reports, None)
                break
            except TrialInterruptedError:
                self.cleanup()
                return self.rest()
            except Exception as problem:
                self.cleanup()
                if not settle(self.coordinator, self.key, problem):
                    return {"done": True}
        if report is None:
            self.cleanup()
            ask(self.coordinator.pause.remote(self.key))
            return {"done": True}
        stop = send(self.coordinator, self.key, report)
        if report.finished:
            # The generator has its own last words: it removes the checkpoints that were only kept while it trained.
            next(self.reports, None)
        if stop:
            self.cleanup()
        return {"epoch": report.epoch, MRR: report.metrics.get(MRR), "done": stop}

    def _train(self) -> Iterator[EpochReport]:
        from raydistill.devices import keep_to

        keep_to(self.study.config.resources.gpus)
        self.workshop.set_threads(self.study.threads)
        record: TrialRecord = ask(self.coordinator.record.remote(self.key))
        self.study.premises.require()
        directory = self.study.directory(record.identity)
        with held(directory), logged(directory / TRIAL_LOG, Notes(self.coordinator, self.key)):
            for doubt in self.study.premises.doubts():
                logger.warning(doubt)
            finished, guide = False, Guide(self.coordinator, self.key)
            with noticing(self.coordinator, self.key) as notice:
                config, world = self.study.resolve(record.parameters), self.workshop.world(False)
                for report in self.workshop.run_trial(config, directory, world, guide, notice, saved=notice.has_saved):
                    finished = report.finished
                    yield report
        if not finished and not guide.waits:
            raise TrialError("the trial ended without saying that it was finished")

    def cleanup(self) -> None:
        """Let go of model, data and directory."""
        if self.reports is not None:
            self.reports.close()  # type: ignore[attr-defined]
            self.reports = None


class TrainTrial(_Trial):
    """A trial whose workers are run by Ray Train, and which leaves them to the next one."""

    runs: WorkerRuns | None = None
    thread: threading.Thread | None = None

    def start(self, number: int) -> None:
        """Turn to a trial."""
        super().start(number)
        self.seen: int | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process."""
        self.start(new_config["number"])
        return True

    def work(self) -> dict[str, Any]:
        """Wait for the next report of the workers, or for their end."""
        if self.seen is None:
            self.seen = len(ask(self.coordinator.record.remote(self.key)).reports)
            self._find_workers()
        sigterm = sigterm_notice()
        sigterm.at_work = True
        try:
            return self._watch(sigterm)
        finally:
            sigterm.at_work = False

    def _find_workers(self) -> None:
        """Those of the trial before, where they are still there, or new ones."""
        if self.thread is not None and self.runs is not None:
            if self.thread.is_alive() and self.runs.hand_over(self.study, self.key):
                return
            self.thread.join(JOIN_SECONDS)
        # Here alone: the process of a search has no use for it.
        from raydistill.orchestration.elastic import WorkerRuns

        self.runs = WorkerRuns(self.study, self.key, self.coordinator, self.workshop, Path(self.logdir))
        self.thread = threading.Thread(target=self.runs.run, daemon=True)
        self.thread.start()

    def _watch(self, sigterm: SigtermNotice) -> dict[str, Any]:
        assert self.runs is not None and self.thread is not None and self.seen is not None
        while True:
            if sigterm.told:
                self.runs.last = True
                ask(self.coordinator.halt.remote(self.key))
                self.thread.join(NOTICE_SECONDS)
                return self.rest()
            self.runs.look()
            alive = self.thread.is_alive()
            record: TrialRecord = ask(self.coordinator.wait.remote(self.key, self.seen))
            if record.status != "running":
                return {"done": True}
            if len(record.reports) > self.seen:
                self.seen += 1
                report = record.reports[self.seen - 1]
                return {"epoch": report["epoch"], MRR: report["metrics"].get(MRR), "done": False}
            if not alive:
                if self.runs.halted:
                    return self.rest()
                problem = self.runs.problem or TrialError("the workers ended without saying that they were finished")
                settle(self.coordinator, self.key, problem)
                return {"done": True}

    def cleanup(self) -> None:
        """A trial that is ended from outside must leave no workers behind."""
        if self.thread is not None and self.runs is not None:
            self.runs.dismiss()
            self.thread.join(JOIN_SECONDS)
