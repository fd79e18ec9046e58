"""A campaign from its configuration to its last tested student: what the command line and the Python API call."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from raydistill.config.load import anchored
from raydistill.config.schema import CampaignConfig
from raydistill.errors import CapabilityError
from raydistill.orchestration.cluster import cluster_size, connected, machines
from raydistill.orchestration.coordinator import ask, start_coordinator
from raydistill.orchestration.driver import Driver
from raydistill.orchestration.environment import environment
from raydistill.orchestration.locking import locked
from raydistill.orchestration.rundir import (
    ENVIRONMENT,
    campaign_fingerprint,
    check_campaign,
    check_owner,
    read_state,
    write_config,
    write_json,
)
from raydistill.orchestration.workshop import Workshop, standard_workshop
from raydistill.planning.grades import GradePlan, Ground, lineages_of
from raydistill.planning.places import capacity, least_cpus, workers_that_fit
from raydistill.planning.preflight import preflight
from raydistill.planning.rules import rules_of
from raydistill.planning.state import CampaignState

logger = logging.getLogger(__name__)
SIGTERM_EXIT = 128 + signal.SIGTERM


class Campaign:
    """All grades of all lineages of one configuration, in one run directory.

    Args:
        config: what to run.
        run_dir: where to write.
        workshop: the functions trials are made of; None = raydistill's own.
        address: a Ray cluster; None = `RAY_ADDRESS`, or one of our own for as long as the campaign runs.
        num_cpus: CPUs of our own cluster; None = all of the machine.
    """

    def __init__(
        self,
        config: CampaignConfig,
        run_dir: str | Path,
        workshop: Workshop | None = None,
        *,
        address: str | None = None,
        num_cpus: int | None = None,
    ) -> None:
        self.config = config
        self.address, self.num_cpus = address, num_cpus
        self.root = Path(run_dir).absolute()
        self.workshop = workshop or standard_workshop()

    def run(self, *, resume: bool = False, observe: Callable[[CampaignState], None] | None = None) -> CampaignState:
        """Train, search, promote and test, grade by grade.

        Args:
            resume: go on with what the run directory holds.
            observe: called with the state after every change, at most twice a second.

        Raises:
            RayDistillError: a leaf of it that says what went wrong; everything recorded so far is kept.
        """
        ground = self.workshop.survey(self.config)
        plans = preflight(self.config, ground)
        fingerprint = campaign_fingerprint(self.config, ground)
        with locked(self.root), _terminable():
            check_owner(self.root, self.config, resume=resume)
            state = read_state(self.root)
            check_campaign(self.root, state, fingerprint, ground)
            if state.complete:
                if observe is not None:
                    observe(state)
                return state
            write_config(self.root, self.config)
            write_json(self.root / ENVIRONMENT, environment(self.config, ground, fingerprint))
            # Ray puts its own handler in place of ours when it starts.
            with connected(self.address, num_cpus=self.num_cpus), _terminable():
                return self._drive(ground, plans, fingerprint, observe)

    def _drive(
        self,
        ground: Ground,
        plans: tuple[GradePlan, ...],
        fingerprint: str,
        observe: Callable[[CampaignState], None] | None,
    ) -> CampaignState:
        lineages = lineages_of(self.config)
        cpus, gpus = cluster_size()
        room = self._room(cpus, gpus)
        coordinator = start_coordinator(
            self.root,
            rules_of(self.config, plans),
            self.workshop.verify_checkpoint if self.config.storage.share_trials else None,
        )
        ask(coordinator.start.remote(fingerprint, [one.name for one in lineages], [plan.folder for plan in plans]))
        if ground.given_teacher is not None:
            for lineage in lineages:
                ask(coordinator.promote_given.remote(lineage.name, ground.given_teacher))
        # Trials work in other directories than this process; what a run records is the path as it was written.
        driver = Driver(
            anchored(self.config),
            ground,
            lineages,
            plans,
            self.root,
            room,
            cpus,
            gpus,
            coordinator,
            self.workshop,
            observe,
        )
        try:
            return driver.run()
        finally:
            shutil.rmtree(self.root / ".tune", ignore_errors=True)

    def _room(self, cpus: float, gpus: float) -> int:
        needs = self.config.resources
        room = capacity(needs, cpus, gpus)
        fits = workers_that_fit(needs, least_cpus(needs), machines())
        if room < 1 or (needs.concurrent_trials == "auto" and fits < needs.least_workers):
            raise CapabilityError(
                f"a trial needs {needs.least_workers} x {least_cpus(needs):g} CPUs and "
                f"{needs.least_workers} x {needs.gpus_per_worker:g} GPUs; the cluster has {cpus:g} and {gpus:g} on "
                f"{len(machines())} machine{'s' * (len(machines()) != 1)}",
                expected="room for one trial",
                consequence="trials would wait for ever",
                remedy="lower resources, or set concurrent_trials where the cluster grows on demand",
            )
        return room


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a campaign as Ctrl-C does: by unwinding, with everything closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    received = False

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        raise SystemExit(SIGTERM_EXIT)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit:
        # A SystemExit that crosses Ray's own code comes out with another code.
        if received:
            raise SystemExit(SIGTERM_EXIT) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
