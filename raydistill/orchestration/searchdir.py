"""The run directory of a search over ladders, which has one run below it for each. Nothing here needs Ray, as in `rundir.py`.

RUN/config.yaml   search/00000001.json ...   pareto.json   ladders/0000/ ladders/0001/ ...

    ladder_begun                     number, point, time                            it is gone on with, as it was proposed
    ladder_finished, ladder_failed   number, point, values, reason, time            one that failed may be tried again, and then has two
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raydistill.config.schema import CampaignConfig
from raydistill.errors import LedgerError
from raydistill.orchestration.locking import is_held
from raydistill.orchestration.rundir import CONFIG, read_config, read_state
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.ladders import LadderResult, described, ladder_in, next_ladder
from raydistill.planning.state import CampaignState

SEARCH, PARETO, LADDERS = "search", "pareto.json", "ladders"
BEGUN = "ladder_begun"


@dataclass(frozen=True)
class SearchState:
    """How far a search over ladders is.

    Attributes:
        wanted: ladders it runs at most.
        ladders: what `planning.ladders.described` says of each that has begun, by number; `status` is `running` where it has not ended.
        running: the campaigns of those, by number of the ladder. A crash may have interrupted them.
        complete: whether none is left to run, and nobody tries failed ones again.
    """

    wanted: int
    ladders: list[dict[str, Any]]
    running: dict[int, CampaignState]
    complete: bool


def open_search(store: RunStore, config: CampaignConfig) -> SearchState:
    """What happened in a search so far, read from its ledger and those of the ladders that run.

    Args:
        store: where the search lies.
        config: what it was begun with.

    Raises:
        LedgerError: a ledger is damaged.
        ConfigError: the configuration of a ladder is damaged.
    """
    assert config.ladders is not None, "a search over ladders needs a `ladders` section"
    held, (results, begun) = is_held(store), read_search(store)
    ladders = {one["number"]: one for one in described(config.ladders, results)}
    running: dict[int, CampaignState] = {}
    # The last one is of a release that did not say which have begun.
    for number in [*(one.number for one in results if not one.values), *begun, len(results) + len(begun)]:
        below = ladder_store(store, number)
        if below.read(CONFIG) is None or (number in ladders and not (held and is_held(below))):
            continue
        ladder = ladder_in(read_config(below))
        ladders[number] = {**ladder, "number": number, "status": "running", "values": {}, "reason": "", "pareto": False}
        running[number] = read_state(below)
    complete = not held and not running and not begun and next_ladder(config, results) is None
    return SearchState(config.ladders.ladders, [ladders[number] for number in sorted(ladders)], running, complete)


def read_search(store: RunStore) -> tuple[list[LadderResult], dict[int, Mapping[str, Any]]]:
    """The ladders that were run, by number, each with what came of it last; and the points of those that have begun and not ended.

    Raises:
        LedgerError: the search's ledger is damaged.
    """
    events = store.ledger(SEARCH).read()
    ended = [event for event in events if event.get("kind") != BEGUN]
    results = {one.number: one for one in map(result_of, ended)}
    begun = [result_of({**event, "values": {}, "reason": ""}) for event in events if event not in ended]
    points = {one.number: one.point for one in begun if one.number not in results}
    return [results[number] for number in sorted(results)], points


def result_of(event: Mapping[str, Any]) -> LadderResult:
    """The ladder that an event of the search's ledger speaks of.

    Raises:
        LedgerError: it speaks of none.
    """
    try:
        return LadderResult(event["number"], event["point"], event["values"], event["reason"])
    except KeyError as problem:
        raise LedgerError(
            f"the ledger of the search: an event {event.get('kind')!r} without {problem}",
            expected="ladder_finished or ladder_failed, with number, point, values and reason",
            consequence="ladders that were run would be run again",
            remedy="use the release of raydistill that wrote this run, or a newer one",
        ) from None


def ladder_name(number: int) -> str:
    """Where the run of a ladder lies in that of its search."""
    return f"{LADDERS}/{number:04d}"


def ladder_store(store: RunStore, number: int) -> RunStore:
    """The run of a ladder."""
    if store.remote is None:
        return RunStore.at(store.located(ladder_name(number)))
    below = store.remote.below(ladder_name(number))
    return RunStore(below.name, below)
