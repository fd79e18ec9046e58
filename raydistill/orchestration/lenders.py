"""Scores on the test split that other runs have: of a checkpoint that was taken from one of them, the numbers are taken from there, too."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from raydistill.config.schema import CampaignConfig
from raydistill.errors import RayDistillError
from raydistill.orchestration.library import runs_beside
from raydistill.orchestration.rundir import read_config, read_state
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.records import TAKEN, Place
from raydistill.planning.state import CampaignState

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lenders:
    """The runs that a promoted checkpoint was taken from. It is data, sent to the process that scores it.

    Attributes:
        store: the run that borrows.
        places: of the others; none where the checkpoint was trained here.
        digest: of the checkpoint.
    """

    store: RunStore
    places: frozenset[str]
    digest: str

    def score(self, config: CampaignConfig) -> dict[str, float] | None:
        """What the checkpoint scored there; None where nobody has a score yet that was measured as `config` asks for it."""
        if not self.places:
            return None
        try:
            runs = [one for one in runs_beside(self.store) if one.place in self.places]
        except RayDistillError as problem:
            logger.info("no score is taken from other runs: %s", problem.received)
            return None
        return next(filter(None, (self._score_in(run, config) for run in runs)), None)

    def _score_in(self, run: RunStore, config: CampaignConfig) -> dict[str, float] | None:
        try:
            # Of all that a score depends on, the checkpoint does not name this alone: its trial's identity names the dataset.
            return read_state(run).scored(self.digest) if read_config(run).rerank == config.rerank else None
        except RayDistillError as problem:
            logger.info("no score is taken from %s: %s", run.place, problem.received)
            return None


def lenders_of(store: RunStore, state: CampaignState, place: Place) -> Lenders:
    """Who may have scored what a grade has promoted.

    Args:
        store: the run.
        state: what has happened in it.
        place: a grade that has promoted.
    """
    promotion = state.promotions[place]
    trials = (one for one in state.trials.values() if one.identity == promotion.identity)
    notes = (note for one in trials for note in one.notes if note.startswith(TAKEN))
    return Lenders(store, frozenset(note.removeprefix(TAKEN) for note in notes), promotion.digest)
