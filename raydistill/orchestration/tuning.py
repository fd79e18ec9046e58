"""A run of Ray Tune, in a thread: the trials of one study after another, as long as the same processes will do."""

from __future__ import annotations

import logging
import threading
import uuid
from typing import Any

from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.search import Searcher

from raydistill.orchestration.relay import Relay
from raydistill.orchestration.scratch import TuneStorage
from raydistill.orchestration.searcher import StudySearcher
from raydistill.orchestration.study import Study
from raydistill.orchestration.trials import InlineTrial, TrainTrial
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.places import backend_of

logger = logging.getLogger(__name__)
HEAD = {"node:__internal_head__": 0.001}
"""A trial that only watches its workers takes no CPU from them, but Ray asks for something."""


class Tuning:
    """What runs the trials of studies. A process that has trained one is kept for the next study: to start and to import takes it seconds.

    Args:
        study: the first one.
        searcher: the search of it.
        runner: handle of the actor this is in, which trials ask for their study.
        coordinator: handle of the coordinator.
        workshop: what trials run.
    """

    def __init__(
        self, study: Study, searcher: StudySearcher, runner: Any, coordinator: Any, workshop: Workshop
    ) -> None:
        self._share = (study.cpus, study.workers)
        self._relay = Relay(searcher)
        self._problem: BaseException | None = None
        given = (study, runner, coordinator, workshop)
        self._thread = threading.Thread(target=self._run, args=given, daemon=True)
        self._thread.start()

    def take(self, study: Study, searcher: StudySearcher) -> bool:
        """Turn to another study, after `wait`; False where others than these processes have to."""
        return (study.cpus, study.workers) == self._share and self._relay.give(searcher)

    def wait(self) -> None:
        """Return when none of the study's trials is left, or Tune has ended the search before.

        Raises:
            Exception: what ended it.
        """
        self._relay.wait()
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def let_go(self) -> None:
        """End the processes, which keep their room, unless they have a study."""
        self._relay.let_go()

    def end(self) -> None:
        """End the processes, and return when they have."""
        self._relay.let_go()
        self._thread.join()
        if self._problem is not None:
            # Nobody was told: it came when no study was waited for.
            logger.warning("a run of Ray Tune did not end well", exc_info=self._problem)

    def _run(self, *given: Any) -> None:
        try:
            run_tune(self._relay, *given)
        except BaseException as problem:
            self._problem = problem
        finally:
            self._relay.end()


def run_tune(searcher: Searcher, study: Study, runner: Any, coordinator: Any, workshop: Workshop) -> None:
    """Run the trials that a searcher gives out, all with the CPUs that those of one study get."""
    resources = study.config.resources
    inline = backend_of(resources) == "inline"
    trial = tune.with_parameters(
        InlineTrial if inline else TrainTrial, runner=runner, coordinator=coordinator, workshop=workshop
    )
    share = {"CPU": study.cpus, "GPU": resources.gpus} if inline else HEAD
    bundle = PlacementGroupFactory([{name: amount for name, amount in share.items() if amount > 0}])
    storage = TuneStorage.of(study.store)
    try:
        tune.Tuner(
            named_apart(tune.with_resources(trial, bundle)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=_dirname,
            ),
            run_config=tune.RunConfig(
                # Unlike that of any other: of searches that start in the same second Tune keeps the files of one name in one folder.
                name=f"search-{uuid.uuid4().hex[:8]}",
                storage_path=storage.path,
                storage_filesystem=storage.filesystem,
                verbose=0,
            ),
        ).fit()
    finally:
        storage.remove()


def named_apart(trainable: Any) -> Any:
    """Give what trials run a name that no other run of Tune has in the campaign.

    Tune registers it in the cluster under its name and reads it from there, so of two that start at the same time in two processes one
    would run the other's trials.
    """
    trainable._name = f"search-{uuid.uuid4().hex}"
    return trainable


def _dirname(trial: Any) -> str:
    return str(trial.trial_id)
