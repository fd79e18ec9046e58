"""What a search over ladders has begun and found, on record before anybody acts on it: which ladder comes next, and those that nobody beats."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from raydistill.config.ladders import Objective
from raydistill.config.schema import CampaignConfig
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.searchdir import BEGUN, PARETO, SEARCH, read_search, result_of
from raydistill.planning.ladders import described, next_ladder

Point = Mapping[str, Any]
"""What was drawn for a ladder; see `planning/ladders.py`."""


class SearchRecord:
    """The ledger of a search, and the table made of it.

    Args:
        config: a campaign with a `ladders` section.
        store: where the search lies.

    Attributes:
        results: the ladders that were run, by number.
        begun: the points of those that have begun and not ended.

    Raises:
        LedgerError: the search's ledger is damaged.
    """

    def __init__(self, config: CampaignConfig, store: RunStore) -> None:
        assert config.ladders is not None, "a search over ladders needs a `ladders` section"
        self.config, self.section, self.store = config, config.ladders, store
        self.results, self.begun = read_search(store)
        # A kill may have come between the last event and this file.
        self._write_pareto()

    def following(self) -> Iterator[tuple[int, Point]]:
        """Ladders that were cut short, then new ones, then those that failed once more: what was cut short without being on record as begun was proposed without them."""
        failed = [(one.number, one.point) for one in self.results if not one.values]
        yield from list(self.begun.items())
        while (new := self._begin()) is not None:
            yield new
        yield from failed

    def _begin(self) -> tuple[int, Point] | None:
        """The next ladder, on record before it runs: what would be proposed beside others depends on the moment."""
        point = next_ladder(self.config, self.results, list(self.begun.values()))
        if point is None:
            return None
        number = len(self.results) + len(self.begun)
        self.store.ledger(SEARCH).append({"kind": BEGUN, "number": number, "point": dict(point), "time": time.time()})
        self.begun[number] = point
        return number, point

    def end(self, number: int, point: Point, values: Mapping[Objective, float], reason: str) -> None:
        """Write down what came of a ladder.

        Args:
            number: its place in the search.
            point: what was drawn for it.
            values: by objective; empty where it failed.
            reason: why it did.
        """
        kind = "ladder_finished" if values else "ladder_failed"
        head = {"kind": kind, "number": number, "point": dict(point), "time": time.time()}
        event = {**head, "values": dict(values), "reason": reason}
        self.store.ledger(SEARCH).append(event)
        self.begun.pop(number, None)
        results = {one.number: one for one in (*self.results, result_of(event))}
        self.results = [results[place] for place in sorted(results)]
        self._write_pareto()

    def _write_pareto(self) -> None:
        content = described(self.section, self.results)
        self.store.write(PARETO, (json.dumps(content, indent=2) + "\n").encode())
