"""Which checkpoints nobody needs any more: pure functions of a campaign's state."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from raydistill.planning.promotion import Candidate, beats, candidates, is_able, ranked
from raydistill.planning.records import ENDED, ENDED_WELL, Place, TrialKey, TrialRecord
from raydistill.planning.rules import Rules
from raydistill.planning.state import CampaignState


def superfluous(state: CampaignState, rules: Rules) -> list[TrialRecord]:
    """One record for each work whose checkpoints may go now, as they were entered.

    A trial that has ended goes as soon as `rules.keep_trials` others of its grade come before it whatever is still to be found; so what is promoted is what
    would be if all were kept. Equal work has one directory, and so one fate: it goes when no grade keeps it. A grade whose trials another lineage may still
    take over waits until both have promoted.
    """
    if rules.keep_trials is None:
        return []
    places = {one.key[:2] for one in state.trials.values()}
    over = {place for place in places if _is_over(state, rules, place)}
    alone = {place for place in places - over if not rules.kin.get(place)}
    kept = {identity for place in over for identity in _kept(state, rules, place)}
    lost = {key for place in alone for key in _beaten(state, rules, place)}
    needed = _needed(state)
    return [
        records[0]
        for identity, records in _works(state).items()
        if identity not in kept
        and not all(one.freed for one in records)
        # Whose checkpoints were all found damaged is trained again.
        and not any(one.lost for one in records)
        and all(one.key[:2] in over or one.key in lost for one in records)
        and not any(report["checkpoint"] in needed for one in records for report in one.reports)
    ]


def freed(state: CampaignState) -> set[tuple[str, str]]:
    """Folder of the grade, and identity, of all work whose checkpoints are freed and that nobody has begun anew since: what lies there is left over."""
    works = (records for records in _works(state).values() if all(one.freed and one.status in ENDED for one in records))
    return {(state.grades[one.grade], one.identity) for records in works for one in records}


def _works(state: CampaignState) -> dict[str, list[TrialRecord]]:
    works: dict[str, list[TrialRecord]] = {}
    for record in state.trials.values():
        works.setdefault(record.identity, []).append(record)
    return works


def _is_over(state: CampaignState, rules: Rules, place: Place) -> bool:
    ended = all(one.status in ENDED for one in state.of(*place))
    return ended and all(one in state.promotions for one in (place, *rules.kin.get(place, ())))


def _kept(state: CampaignState, rules: Rules, place: Place) -> set[str]:
    """Identities of the trials of a promoted grade that keep their checkpoints: what was promoted, then what would be without it. Trials of equal work count once."""
    kept, identities = {state.promotions[place].identity}, {one.number: one.identity for one in state.of(*place)}
    # One after another: to rank a thousand trials to the last would take as long as they.
    order = ranked(candidates(state.of(*place), rules.sizes[place[1]]), rules.tolerance)
    while len(kept) < (rules.keep_trials or 0) and (one := next(order, None)) is not None:
        kept.add(identities[one.number])
    return kept


def _beaten(state: CampaignState, rules: Rules, place: Place) -> set[TrialKey]:
    """The trials of a grade that `rules.keep_trials` others come before, however well those do that have not ended."""
    records = {one.number: one for one in state.of(*place)}
    able = [one for one in candidates(list(records.values()), rules.sizes[place[1]]) if is_able(one)]
    # Equal work counts once; one that failed may be taken up again.
    able = list({records[one.number].identity: one for one in reversed(able)}.values())
    keep = rules.keep_trials or 0
    worst = [one.number for one in able if _is_beaten(one, able, keep, rules.tolerance)]
    works = {records[number].identity for number in worst}
    return {one.key for one in records.values() if one.identity in works and one.status in ENDED_WELL}


def _is_beaten(one: Candidate, able: Sequence[Candidate], times: int, tolerance: float) -> bool:
    better = (other for other in able if beats(other, one, tolerance))
    return len(list(itertools.islice(better, times))) == times


def _needed(state: CampaignState) -> set[str]:
    """The checkpoints that teach, or that whoever goes on may ask for."""
    teachers = [*state.promotions.values(), *state.announcements.values()]
    teachers += [one for former in state.superseded.values() for one in former]
    unfinished = [one for one in state.trials.values() if one.status not in ENDED_WELL]
    taught = {one.checkpoint for record in unfinished for one in record.taught.values()}
    return taught | {one.checkpoint for one in teachers}
