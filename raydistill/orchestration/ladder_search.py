"""A search over whole ladders: campaigns one after another, or several at once, each in a run directory of its own (see `searchdir.py`), sharing what they have in common."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pyarrow import fs

from raydistill.config.ladders import Objective
from raydistill.config.schema import CampaignConfig
from raydistill.errors import CapabilityError, PromotionError, RayDistillError, ScoringError
from raydistill.orchestration.campaign import Campaign
from raydistill.orchestration.cluster import connect_no_more, connected
from raydistill.orchestration.joining import tell_of_places
from raydistill.orchestration.locking import locked
from raydistill.orchestration.ownership import check_owner
from raydistill.orchestration.patience import hurried
from raydistill.orchestration.rundir import CONFIG, write_config
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.search_record import SearchRecord
from raydistill.orchestration.searchdir import SEARCH, ladder_name
from raydistill.orchestration.side_by_side import LOOK_SECONDS, SideBySide
from raydistill.orchestration.terminable import terminable
from raydistill.orchestration.workshop import Workshop, standard_workshop
from raydistill.planning.ladders import LadderResult, ladder_config, ladder_of, next_ladder, pareto, shares_teacher
from raydistill.planning.outlook import GradeOutlook
from raydistill.planning.records import MRR
from raydistill.planning.state import CampaignState

logger = logging.getLogger(__name__)
Observer = Callable[[CampaignState, str], None]
CHECK_SECONDS = 5.0
"""Between looks at whether the search is still this process's."""


class _Ended(NamedTuple):
    """A ladder that was run: without `values` where it failed, for a `reason`."""

    point: Mapping[str, Any]
    values: Mapping[Objective, float] = MappingProxyType({})
    reason: str = ""


class _Watch:
    """Passes on what happens in ladders that run in several threads, and sees when their teacher is there."""

    def __init__(self, observe: Observer | None, nudge: Callable[[], None]) -> None:
        self._observe, self._nudge = observe, nudge
        self._turn = threading.Lock()
        self.taught = False

    def __call__(self, number: int, state: CampaignState) -> None:
        with self._turn:
            if not self.taught and any(grade == 0 for _, grade in state.promotions):
                self.taught = True
                self._nudge()
            if self._observe is not None:
                self._observe(state, _title(number))


class LadderSearch:
    """Runs the ladders that a configuration's `ladders` section asks for.

    Args:
        config: a campaign with a `ladders` section; its first grade says what the section does not (init, view, epochs, learning rate).
        run_dir: where to write.
        workshop: the functions trials are made of; None = raydistill's own.
        num_cpus: CPUs of a cluster of our own; None = all of the machine.
        variables: as for `Campaign`.
        filesystem: as for `Campaign`.
    """

    def __init__(
        self,
        config: CampaignConfig,
        run_dir: str | Path,
        workshop: Workshop | None = None,
        *,
        num_cpus: int | None = None,
        variables: Mapping[str, str] | None = None,
        filesystem: fs.FileSystem | None = None,
    ) -> None:
        assert config.ladders is not None, "a search over ladders needs a `ladders` section"
        self.config, self.section = config, config.ladders
        self.store = RunStore.at(run_dir, filesystem)
        self.workshop = workshop or standard_workshop()
        self.num_cpus, self.variables, self.filesystem = num_cpus, variables, filesystem
        self.at_once = min(config.resources.concurrent_ladders, self.section.ladders)
        self._measuring = threading.Lock()

    def run(self, *, resume: bool = False, observe: Observer | None = None) -> list[LadderResult]:
        """Run ladder after ladder, or several at once; returns those that none beats.

        Args:
            resume: go on with what the run directory holds. Ladders that failed are tried once more: what made them fail may have been mended.
            observe: told of the state of a ladder that runs, and its name; by one thread at a time.

        Raises:
            RayDistillError: what ends a campaign; a ladder whose grade cannot promote or be scored only counts as failed.
            RoomError: there is no room for a trial now. That says nothing about the ladder, which is run on `resume`.
            PromotionError: every ladder failed.
        """
        with locked(self.store) as check, connected(num_cpus=self.num_cpus), terminable():
            check_owner(self.store, self.config, resume=resume, ledger=SEARCH)
            write_config(self.store, self.config)
            record = SearchRecord(self.config, self.store)
            tell_of_places(self.config)
            self._run_all(record, check, observe)
        best = pareto(record.results, self.section.objectives)
        if not best:
            raise PromotionError(
                f"none of {len(record.results)} ladders ended; the first: {record.results[0].reason}",
                expected="one ladder whose every grade promotes",
                consequence="there is nothing to choose from",
                remedy="mend what the reason names, then run again with --resume, which tries them once more; what needs another "
                "configuration needs another --run-dir",
            )
        return best

    def outlook(self, *, resume: bool = False) -> list[GradeOutlook]:
        """What the first ladder would be; which follow it depends on what comes of it.

        Args:
            resume: as for `run`.

        Raises:
            RayDistillError: what `run` would refuse before it begins.
            CapabilityError: the first ladder cannot be trained; `run` records that, and goes on with the next.
        """
        check_owner(self.store, self.config, resume=resume, ledger=SEARCH)
        point = next_ladder(self.config, [])
        assert point is not None, "a search has one ladder at least"
        campaign = self._campaign(0, point)
        return campaign.outlook(resume=campaign.store.read(CONFIG) is not None)

    def _run_all(self, record: SearchRecord, check: Callable[[], None], observe: Observer | None) -> None:
        following, shared = record.following(), shares_teacher(self.config)
        ladders = SideBySide[_Ended](on_left=connect_no_more)
        # Who waits for a storage in another thread than the one that hears the signal would wait for minutes.
        with hurried(ladders.told), ladders:
            watch = _Watch(observe, ladders.nudge)
            while True:
                # The teacher that they share is trained once, so the first one begins alone.
                taught = not shared or watch.taught or any(one.values for one in record.results)
                while len(ladders.running) < (self.at_once if taught else 1):
                    check()
                    one = next(following, None)
                    if one is None:
                        break
                    ladders.start(one[0], partial(self._run_ladder, *one, ladders.heed, watch), _title(one[0]))
                if not ladders.running:
                    return
                ended = ladders.wait(CHECK_SECONDS)
                check()
                if ended is not None:
                    number, (point, values, reason) = ended
                    record.end(number, point, values, reason)

    def _campaign(self, number: int, point: Mapping[str, Any], heed: Callable[[], None] = lambda: None) -> Campaign:
        config = ladder_config(self.config, ladder_of(self.section, point))
        return Campaign(
            config,
            self.store.located(ladder_name(number)),
            self.workshop,
            variables=self.variables,
            filesystem=self.filesystem,
            beside=self.at_once,
            heed=heed,
        )

    def _run_ladder(
        self,
        number: int,
        point: Mapping[str, Any],
        heed: Callable[[], None],
        watch: Callable[[int, CampaignState], None],
    ) -> _Ended:
        """Run one ladder, in a thread of its own."""
        try:
            try:
                campaign = self._campaign(number, point, heed)
                resume = campaign.store.read(CONFIG) is not None
                state = campaign.run(resume=resume, observe=partial(watch, number))
            except (CapabilityError, PromotionError, ScoringError) as problem:
                # The next proposal would be the same after a restart: an impossible ladder counts as one that failed.
                logger.warning("%s: %s", _title(number), problem.received)
                return _Ended(point, reason=problem.received)
            return _Ended(point, self._values(state, campaign, heed))
        except RayDistillError as problem:
            problem.received = f"{_title(number)}: {problem.received}"
            raise

    def _values(self, state: CampaignState, campaign: Campaign, heed: Callable[[], None]) -> dict[Objective, float]:
        place = state.lineages[0], len(state.grades) - 1
        promotion = state.promotions[place]
        measured: dict[Objective, Callable[[], float]] = {
            "mrr": lambda: float(promotion.metrics[MRR]),
            "bytes": lambda: state.tests[place]["bytes"],
            "latency": lambda: self._latency(promotion.checkpoint, campaign, heed),
        }
        return {name: measured[name]() for name in self.section.objectives}

    def _latency(self, checkpoint: str, campaign: Campaign, heed: Callable[[], None]) -> float:
        """One after another, because they are to be compared."""
        while not self._measuring.acquire(timeout=LOOK_SECONDS):
            heed()
        try:
            return campaign.workshop.query_milliseconds(checkpoint, campaign.anchored)
        finally:
            self._measuring.release()


def _title(number: int) -> str:
    return f"ladder {number:04d}"
