"""A campaign from its configuration to its last tested student: what the command line and the Python API call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import ray
from pyarrow import fs
from ray.exceptions import RayError

from raydistill.config.load import anchored
from raydistill.config.schema import CampaignConfig
from raydistill.errors import RoomError, RunDirectoryError
from raydistill.orchestration.asking import ask
from raydistill.orchestration.cluster import connected
from raydistill.orchestration.coordinator import start_coordinator
from raydistill.orchestration.courier import served
from raydistill.orchestration.driver import Driver
from raydistill.orchestration.environment import environment
from raydistill.orchestration.freeing import free_at_rest, free_bytes
from raydistill.orchestration.idle import tell_of_spare_gpus, tell_of_unused_gpus
from raydistill.orchestration.joining import awaited_room, has_room, settled
from raydistill.orchestration.locking import locked
from raydistill.orchestration.losses import head_watched
from raydistill.orchestration.machines import Machines
from raydistill.orchestration.ownership import check_campaign, check_owner
from raydistill.orchestration.rundir import (
    ENVIRONMENT,
    campaign_fingerprint,
    read_state,
    write_config,
)
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.scratch import clear_scratch
from raydistill.orchestration.shelf import clear_shelves
from raydistill.orchestration.terminable import terminable
from raydistill.orchestration.variables import Variables
from raydistill.orchestration.workshop import Workshop, standard_workshop
from raydistill.planning.disk import tell_of_disk
from raydistill.planning.grades import GradePlan, lineages_of
from raydistill.planning.ground import Ground
from raydistill.planning.ladders import shares_teacher
from raydistill.planning.outlook import GradeOutlook, outlook
from raydistill.planning.places import capacity, least_cpus
from raydistill.planning.preflight import preflight
from raydistill.planning.rules import rules_of
from raydistill.planning.state import CampaignState


class Campaign:
    """All grades of all lineages of one configuration, in one run directory.

    Args:
        config: what to run.
        run_dir: where to write: a path, or a URI that pyarrow knows, such as s3://bucket/runs/first.
        workshop: the functions trials are made of; None = raydistill's own.
        address: a Ray cluster; None = `RAY_ADDRESS`, or one of our own for as long as the campaign runs.
        num_cpus: CPUs of our own cluster; None = all of the machine.
        variables: what every process of the campaign is to have in its environment, such as credentials, which on a cluster at an address it has not from here.
        filesystem: where `run_dir`, `data.path` and `teacher.checkpoint` are paths, unless they are URIs; it is sent to other
            machines, so it has to be one that can be pickled. None = paths are of this machine.
        beside: of a search over ladders: campaigns that share machines and disk, this one among them; a trial's part of a machine is the smaller, but for the
            teacher that they share. None = this one is no part of a search.
        heed: called again and again while it runs; raises SystemExit where it is to save and end.
    """

    def __init__(
        self,
        config: CampaignConfig,
        run_dir: str | Path,
        workshop: Workshop | None = None,
        *,
        address: str | None = None,
        num_cpus: int | None = None,
        variables: Mapping[str, str] | None = None,
        filesystem: fs.FileSystem | None = None,
        beside: int | None = None,
        heed: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config
        # Trials work in other directories than this process; what a run records is the path as it was written.
        self.anchored = config if filesystem is not None else anchored(config)
        self.address, self.num_cpus, self.filesystem = address, num_cpus, filesystem
        self.in_search, self.beside, self.heed = beside is not None, beside or 1, heed
        self.store = replace(RunStore.at(run_dir, filesystem), variables=Variables(variables) if variables else None)
        self.given_workshop = workshop or standard_workshop()
        self.workshop = served(self.given_workshop, self.anchored, self.store, filesystem)

    def run(self, *, resume: bool = False, observe: Callable[[CampaignState], None] | None = None) -> CampaignState:
        """Train, search, promote and test, grade by grade.

        Args:
            resume: go on with what the run directory holds.
            observe: called with the state after every change, at most twice a second.

        Raises:
            RayDistillError: a leaf of it that says what went wrong; everything recorded so far is kept.
        """
        self.heed()
        ground = self.workshop.survey(self.config)
        plans = preflight(self.config, ground)
        fingerprint = campaign_fingerprint(self.config, ground)
        self.heed()
        with terminable(), locked(self.store, self.heed) as check:
            state = self._own_state(ground, fingerprint, resume=resume)
            if state.complete:
                # A kill at the very end may have left them.
                clear_shelves(self.store, state.grades)
                state = free_at_rest(self.store, rules_of(self.config, plans))
                if observe is not None:
                    observe(state)
                return state
            if (free := free_bytes(self.store)) is not None:
                tell_of_disk(self.config, plans, ground, state, free, self.beside)
            write_config(self.store, self.config)
            self.store.write_json(ENVIRONMENT, environment(self.config, ground, fingerprint))
            self.store = self.store.claimed()
            self.workshop = served(self.given_workshop, self.anchored, self.store, self.filesystem)
            self.heed()
            # Ray puts its own handler in place of ours when it starts.
            with connected(self.address, num_cpus=self.num_cpus), terminable():
                return self._drive(ground, plans, fingerprint, observe, check)

    def outlook(self, *, resume: bool = False) -> list[GradeOutlook]:
        """What `run` would do, from configuration, graph and encoder alone; nothing is begun. Whether there is room on the cluster only `run` can see.

        Args:
            resume: as for `run`; trials that have ended are there, too.

        Raises:
            RayDistillError: what `run` would refuse before it begins.
        """
        ground = self.workshop.survey(self.config)
        plans = preflight(self.config, ground)
        self._own_state(ground, campaign_fingerprint(self.config, ground), resume=resume)
        return outlook(self.config, plans, ground)

    def _own_state(self, ground: Ground, fingerprint: str, *, resume: bool) -> CampaignState:
        """What has happened in the run directory, where that is this campaign's."""
        check_owner(self.store, self.config, resume=resume, ground=ground)
        state = read_state(self.store)
        check_campaign(self.store, state, fingerprint, ground)
        return state

    def _drive(
        self,
        ground: Ground,
        plans: tuple[GradePlan, ...],
        fingerprint: str,
        observe: Callable[[CampaignState], None] | None,
        check: Callable[[], None],
    ) -> CampaignState:
        try:
            # While it runs the driver watches the head itself.
            with head_watched() as head:
                try:
                    driver = self._driver(ground, plans, observe, check)
                    _begin(driver, fingerprint)
                except RayError:
                    head.require()
                    raise
            return driver.run()
        finally:
            # Not what the driver writes that has taken the run from this one.
            with contextlib.suppress(RunDirectoryError):
                check()
                clear_scratch(self.store)

    def _driver(
        self,
        ground: Ground,
        plans: tuple[GradePlan, ...],
        observe: Callable[[CampaignState], None] | None,
        check: Callable[[], None],
    ) -> Driver:
        machines = self._machines()
        if not self.in_search:
            tell_of_spare_gpus(self.config, plans, machines.resources, machines.room.gpus)
        coordinator = start_coordinator(
            self.store,
            rules_of(self.config, plans),
            self.workshop.verify_checkpoint if self.config.storage.share_trials else None,
        )
        return Driver(
            self.anchored.model_copy(update={"resources": machines.resources}),
            ground,
            lineages_of(self.config),
            plans,
            self.store,
            machines,
            coordinator,
            self.workshop,
            observe,
            check=check,
            heed=self.heed,
        )

    def _machines(self) -> Machines:
        room = awaited_room(self.config.resources, self.heed)
        needs = settled(self.config.resources, room)
        # It was counted without GPUs where their number had still to be settled.
        room = replace(room, places=capacity(needs, room.cpus, room.gpus))
        if not has_room(needs, room):
            raise RoomError(
                f"a trial needs {needs.least_workers} x {least_cpus(needs):g} CPUs and "
                f"{needs.least_workers} x {needs.gpus:g} GPUs; the cluster has {room.cpus:g} and {room.gpus:g} on "
                f"{len(room.machines)} machine{'s' * (len(room.machines) != 1)}",
                expected="room for one trial",
                consequence="trials would wait for ever",
                remedy="lower resources, wait for the cluster's machines, or set concurrent_trials where it grows on demand; then run the same "
                "command with --resume",
            )
        if room.gpus and self.config.resources.gpus_per_worker == 0:
            tell_of_unused_gpus(room.gpus)
        # The teacher that ladders share is trained before the others begin (`ladder_search.py`).
        return Machines(needs, room, self.beside, alone=(0,) if shares_teacher(self.config) else ())


def _begin(driver: Driver, fingerprint: str) -> None:
    """Tell a coordinator of its campaign, and start the first search's process beside its own, and not after it."""
    coordinator, names = driver.coordinator, [one.name for one in driver.lineages]
    try:
        driver.runners.prepare()
        ask(coordinator.start.remote(fingerprint, names, [plan.folder for plan in driver.plans]))
        if driver.ground.given_teacher is not None:
            for name in names:
                ask(coordinator.promote_given.remote(name, driver.ground.given_teacher))
    except BaseException:
        # On a cluster that goes on nobody else would end them.
        driver.runners.stop([], at_once=True)
        ray.kill(coordinator)
        raise
