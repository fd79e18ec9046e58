"""What has happened in a campaign: its state, kept in step with its ledger. One process writes it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from raydistill.errors import RayDistillError
from raydistill.orchestration.rundir import LEDGER, located, portable
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.records import TrialKey
from raydistill.planning.state import CampaignState


class Chronicle:
    """The state of one campaign, and the only writer of its ledger.

    Args:
        place: the run.

    Raises:
        LedgerError: the ledger cannot be read.
    """

    def __init__(self, place: str | Path | RunStore) -> None:
        self.store = RunStore.at(place)
        self.ledger = self.store.ledger(LEDGER)
        self.state = CampaignState()
        self.events: list[dict[str, Any]] = []
        self.broken: RayDistillError | None = None
        for event in self.ledger.read():
            self._remember(located(event, self.store))

    def abort(self, error: RayDistillError) -> None:
        """Remember an error that ends the campaign; whoever asks for news is told."""
        self.broken = self.broken or error

    def news(self, after: int) -> list[dict[str, Any]]:
        """The events after number `after`.

        Raises:
            RayDistillError: the error that ended the campaign.
        """
        if self.broken is not None:
            raise self.broken
        return self.events[after:]

    def tell(self, kind: str, key: TrialKey, facts: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Write an event about a trial."""
        self.append({"kind": kind, **place_of(key), **facts, "time": time.time()})

    def append(self, event: dict[str, Any]) -> None:
        """Write an event and take it into account.

        Raises:
            RayDistillError: the error that ended the campaign; nothing more is decided then.
            LedgerError: the event contradicts an earlier one.
            StorageError: it cannot be written.
        """
        # A campaign that is ending decides nothing more: a promotion now would leave out what the error interrupted.
        if self.broken is not None:
            raise self.broken
        # Applied before it is written: a contradiction must not enter the ledger. If writing then fails, nothing more is decided.
        self._remember(event)
        try:
            self.ledger.append(portable(event, self.store))
        except RayDistillError as problem:
            self.abort(problem)
            raise

    def _remember(self, event: dict[str, Any]) -> None:
        self.state.apply(event)
        self.events.append(event)


def place_of(key: TrialKey) -> dict[str, Any]:
    """The fields of an event that say which trial it is about."""
    return {"lineage": key[0], "grade": key[1], "number": key[2]}
