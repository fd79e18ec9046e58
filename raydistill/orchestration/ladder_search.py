"""A search over whole ladders: one campaign after another, each in a run directory of its own (see `searchdir.py`), sharing what they have in common."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyarrow import fs

from raydistill.config.ladders import Objective
from raydistill.config.schema import CampaignConfig
from raydistill.errors import CapabilityError, PromotionError, ScoringError
from raydistill.orchestration.campaign import Campaign
from raydistill.orchestration.cluster import connected
from raydistill.orchestration.locking import locked
from raydistill.orchestration.ownership import check_owner
from raydistill.orchestration.rundir import CONFIG, write_config
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.searchdir import PARETO, SEARCH, ladder_name, read_results, result_of
from raydistill.orchestration.workshop import Workshop, standard_workshop
from raydistill.planning.ladders import LadderResult, described, ladder_config, ladder_of, next_ladder, pareto
from raydistill.planning.outlook import GradeOutlook
from raydistill.planning.records import MRR
from raydistill.planning.state import CampaignState

logger = logging.getLogger(__name__)
Observer = Callable[[CampaignState], None]


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
        self.results: list[LadderResult] = []

    def run(self, *, resume: bool = False, observe: Observer | None = None) -> list[LadderResult]:
        """Run ladder after ladder; returns those that none beats.

        Args:
            resume: go on with what the run directory holds. Ladders that failed are tried once more: what made them fail may have been mended.
            observe: told of the state of the ladder that runs.

        Raises:
            RayDistillError: what ends a campaign; a ladder whose grade cannot promote or be scored only counts as failed.
            RoomError: there is no room for a trial now. That says nothing about the ladder, which is run on `resume`.
            PromotionError: every ladder failed.
        """
        with locked(self.store) as check, connected(num_cpus=self.num_cpus):
            check_owner(self.store, self.config, resume=resume, ledger=SEARCH)
            write_config(self.store, self.config)
            self.results = read_results(self.store)
            # A kill may have come between the last event and this file.
            self._write_pareto()
            failed = [one for one in self.results if not one.values]
            while (point := next_ladder(self.config, self.results)) is not None:
                self._run_ladder(len(self.results), point, check, observe)
            # After the others: a ladder that was cut short was proposed without them, and is proposed so again.
            for one in failed:
                self._run_ladder(one.number, one.point, check, observe)
        best = pareto(self.results, self.section.objectives)
        if not best:
            raise PromotionError(
                f"none of {len(self.results)} ladders ended; the first: {self.results[0].reason}",
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

    def _campaign(self, number: int, point: Mapping[str, Any]) -> Campaign:
        config, place = (
            ladder_config(self.config, ladder_of(self.section, point)),
            self.store.located(ladder_name(number)),
        )
        return Campaign(config, place, self.workshop, variables=self.variables, filesystem=self.filesystem)

    def _run_ladder(
        self, number: int, point: Mapping[str, Any], check: Callable[[], None], observe: Observer | None
    ) -> None:
        """Run one ladder, and record what came of it."""
        check()
        event = self._outcome(number, point, observe)
        self.store.ledger(SEARCH).append(event)
        self.results[number : number + 1] = [result_of(event)]
        self._write_pareto()

    def _outcome(self, number: int, point: Mapping[str, Any], observe: Observer | None) -> dict[str, Any]:
        head = {"number": number, "point": dict(point), "time": time.time()}
        try:
            campaign = self._campaign(number, point)
            state = campaign.run(resume=campaign.store.read(CONFIG) is not None, observe=observe)
        except (CapabilityError, PromotionError, ScoringError) as problem:
            # The next proposal would be the same after a restart: an impossible ladder counts as one that failed.
            logger.warning("ladder %d: %s", number, problem.received)
            return {"kind": "ladder_failed", **head, "values": {}, "reason": problem.received}
        return {"kind": "ladder_finished", **head, "values": self._values(state, campaign), "reason": ""}

    def _values(self, state: CampaignState, campaign: Campaign) -> dict[Objective, float]:
        place = state.lineages[0], len(state.grades) - 1
        promotion = state.promotions[place]
        measured: dict[Objective, Callable[[], float]] = {
            "mrr": lambda: float(promotion.metrics[MRR]),
            "bytes": lambda: state.tests[place]["bytes"],
            "latency": lambda: campaign.workshop.query_milliseconds(promotion.checkpoint, campaign.anchored),
        }
        return {name: measured[name]() for name in self.section.objectives}

    def _write_pareto(self) -> None:
        content = described(self.section, self.results)
        self.store.write(PARETO, (json.dumps(content, indent=2) + "\n").encode())
