"""Whose checkpoints go while a grade is searched and when it has promoted, and whose never do."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.planning.freeing import freed, superfluous
from raydistill.planning.grades import grade_plans
from raydistill.planning.ground import Ground
from raydistill.planning.promotion import candidates, choose
from raydistill.planning.rules import Rules, rules_of
from raydistill.planning.state import CampaignState, replay

Event = dict[str, Any]
Maker = Callable[..., CampaignConfig]
START: Event = {"kind": "campaign_started", "config_fingerprint": "f", "lineages": ["a", "b"], "grades": ["0", "1"]}
RULES = Rules("sequential", 0.0, False, 1, 2, epochs=(3, 3), sizes=(12, 6), keep_trials=2)
KIN = {("a", 1): (("b", 1),), ("b", 1): (("a", 1),)}


def place(number: int, lineage: str = "a", grade: int = 1) -> Event:
    return {"lineage": lineage, "grade": grade, "number": number, "time": 1.0}


def begun(number: int, lineage: str = "a", grade: int = 1, identity: str = "") -> Event:
    what = {"identity": identity or f"i{grade}{number}", "parameters": {}, "epochs": 3}
    return {"kind": "trial_begun", **place(number, lineage, grade), **what}


def reported(number: int, mrr: float | None, lineage: str = "a", grade: int = 1, outcome: str = "finished") -> Event:
    files = {"checkpoint": f"c{grade}{number}", "digest": f"d{grade}{number}"}
    what = {"epoch": 3, "metrics": {"valid/both/mrr": mrr}, **files, "outcome": outcome}
    return {"kind": "trial_reported", **place(number, lineage, grade), **what}


def ended(*scores: float, lineage: str = "a", grade: int = 1) -> list[Event]:
    pairs = [(begun(n, lineage, grade), reported(n, mrr, lineage, grade)) for n, mrr in enumerate(scores)]
    return [event for pair in pairs for event in pair]


def promoted(number: int, lineage: str = "a", grade: int = 1, checkpoint: str = "") -> Event:
    files = {"checkpoint": checkpoint or f"c{grade}{number}", "digest": f"d{grade}{number}", "epoch": 3, "metrics": {}}
    return {"kind": "grade_promoted", **place(number, lineage, grade), "identity": f"i{grade}{number}", **files}


def going(events: Sequence[Event], **changes: Any) -> list[str]:
    return [one.identity for one in superfluous(replay([START, *events]), replace(RULES, **changes))]


def after(events: Sequence[Event], **changes: Any) -> CampaignState:
    """What the ledger says when all that may go is freed."""
    state = replay([START, *events])
    for record in superfluous(state, replace(RULES, **changes)):
        state.apply({"kind": "trial_freed", **place(record.number, record.lineage, record.grade)})
    return state


def test_best_trials_of_a_promoted_grade_keep_their_checkpoints() -> None:
    """A hundred trials would keep 200 GB for ever; or the checkpoint go that teaches the grade below."""
    events = [*ended(0.1, 0.4, 0.3, 0.2), promoted(1)]
    assert going(events) == ["i10", "i13"]
    assert going(events, keep_trials=1) == ["i10", "i12", "i13"]
    assert going(events, keep_trials=9) == []
    assert going(events, keep_trials=None) == []


def test_promoted_trial_is_kept_though_another_has_a_higher_number() -> None:
    """Promotion takes the smaller or the earlier of equals; by MRR alone the student of the campaign would be removed."""
    events = [*ended(0.40, 0.41, 0.1), promoted(0)]
    assert going(events, keep_trials=1, tolerance=0.05) == ["i11", "i12"]
    assert going(events, tolerance=0.05) == ["i12"]


def test_failed_trials_go_too_and_never_take_a_better_ones_place() -> None:
    """What a failed trial saved on its way would stay, or be kept in place of one that could be promoted."""
    events = [*ended(0.1, 0.4), begun(2), reported(2, 0.9, outcome="running")]
    events += [{"kind": "trial_failed", **place(2), "reason": "nan"}, promoted(1)]
    assert going(events) == ["i12"]


@pytest.mark.parametrize(
    ("keep", "gone"), [(1, ["i10", "i12"]), (2, ["i10"]), (3, [])], ids=["one", "two", "all that ended"]
)
def test_losers_go_while_their_grade_is_searched(keep: int, gone: list[str]) -> None:
    """A search of a hundred trials would need room for all of them at once, and promote when the disk is full."""
    assert going([*ended(0.1, 0.4, 0.3), begun(3)], keep_trials=keep) == gone
    assert going([*ended(0.1, 0.4, 0.3), begun(3), {"kind": "trial_paused", **place(3)}], keep_trials=keep) == gone
    assert going([*ended(0.1, 0.4, 0.3), promoted(1), begun(3)], keep_trials=keep) == gone


def sized(number: int, mrr: float, size: int) -> list[Event]:
    event = reported(number, mrr)
    return [begun(number), {**event, "metrics": {**event["metrics"], "student/bytes": float(size)}}]


@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_what_is_promoted_is_what_would_be_if_all_were_kept(tolerance: float) -> None:
    """A bar that a freed trial had set would sink, and a smaller student of less be promoted; `storage` changes no result."""
    chance, freed_trials = random.Random(0), 0
    for _ in range(200):
        trials = [sized(n, round(chance.uniform(0.2, 0.4), 2), chance.randint(1, 4)) for n in range(8)]
        # Of several at once any may end first.
        order = sorted(range(8), key=lambda n: n + chance.uniform(0, 3))
        keep, events = chance.randint(1, 3), [event for trial in trials for event in trial[:1]]
        rules = replace(RULES, keep_trials=keep, tolerance=tolerance)
        state, all_kept = replay([START, *events]), replay([START, *events])
        for number in order:
            for one in (state, all_kept):
                one.apply(trials[number][1])
            for record in superfluous(state, rules):
                state.apply({"kind": "trial_freed", **place(record.number)})
        freed_trials += sum(one.freed for one in state.of("a", 1))
        assert sum(not one.freed for one in state.of("a", 1)) >= keep
        assert choose(candidates(state.of("a", 1), 6), tolerance) == choose(
            candidates(all_kept.of("a", 1), 6), tolerance
        )
    assert freed_trials > 200


def test_size_decides_as_it_would_if_all_were_kept() -> None:
    """Bytes decide where all have told them: one that has not, and is freed, would change what is promoted."""
    trials = [*ended(0.2), *sized(1, 0.4, 9)[:1], sized(1, 0.4, 9)[1], *sized(2, 0.4, 3)]
    state, kept = after(trials, keep_trials=1), replay([START, *trials])
    assert state.trials["a", 1, 0].freed
    assert (
        choose(candidates(state.of("a", 1), 6), 0.0).number == choose(candidates(kept.of("a", 1), 6), 0.0).number == 1
    )


def test_trial_whose_checkpoints_were_all_damaged_is_not_freed() -> None:
    """It is trained again; freed, it could never be promoted, and the campaign would end with the same error for ever."""
    rejected = {"kind": "checkpoint_rejected", **place(1), "digest": "d11", "reason": "damaged"}
    state = after([*ended(0.1, 0.4, 0.3), rejected], keep_trials=1)
    assert [(one.freed, one.lost) for one in state.of("a", 1)] == [(True, False), (False, True), (False, False)]
    state.apply({"kind": "trial_resumed", **place(1)})
    state.apply(reported(1, 0.4))
    assert state.trials["a", 1, 1].best_checkpoint == "c11"


def test_freed_trial_that_is_taken_up_again_has_checkpoints_of_its_own() -> None:
    """Equal work gives equal digests: the report that comes again would be taken for the one whose checkpoint is gone."""
    events = [*ended(0.4), begun(1), reported(1, 0.1, outcome="running")]
    events += [{"kind": "trial_failed", **place(1), "reason": "nan"}, promoted(0)]
    state = after(events, keep_trials=1)
    assert state.trials["a", 1, 1].freed
    state.apply({"kind": "trial_resumed", **place(1)})
    assert freed(state) == set()
    state.apply(reported(1, 0.1))
    assert state.trials["a", 1, 1].best_checkpoint == "c11"
    assert freed(state) == set()


@pytest.mark.parametrize(
    ("more", "kin"),
    [
        ([], KIN),
        ([begun(0, "b", identity="i10")], {}),
        ([promoted(1), begun(0, "b", identity="i10")], {}),
        ([{"kind": "trial_resumed", **place(0)}], {}),
    ],
    ids=["may be shared", "is shared", "is shared below a promotion", "begun again"],
)
def test_what_somebody_may_still_write_or_take_over_stays(more: list[Event], kin: Any) -> None:
    """A directory would be emptied that another lineage's trial writes, or its work done twice."""
    events = ended(0.1, 0.4)
    if more and more[0]["kind"] == "trial_resumed":
        events[1:2] = [reported(0, 0.1, outcome="running"), {"kind": "trial_failed", **place(0), "reason": "nan"}]
    assert going([*events, *more], keep_trials=1, kin=kin) == []


def test_failed_trial_stays_until_its_grade_has_promoted() -> None:
    """It may be taken up again where it stopped."""
    events = [*ended(0.4), begun(1), reported(1, 0.1, outcome="running")]
    events += [{"kind": "trial_failed", **place(1), "reason": "nan"}]
    assert going(events, keep_trials=1) == []
    assert going([*events, promoted(0)], keep_trials=1) == ["i11"]


def test_lineages_that_may_share_work_wait_for_each_other() -> None:
    """The second lineage would find the trials of the first done and freed, and train them again."""
    events = [*ended(0.1, 0.4), promoted(1)]
    assert going(events, keep_trials=1, kin=KIN) == []
    reused = [{"kind": "trial_reused", **begun(n, "b"), "source": ["a", 1, n]} for n in (0, 1)]
    events += [{**event, "kind": "trial_reused"} for event in reused]
    assert going(events, keep_trials=1, kin=KIN) == []
    assert going([*events, promoted(1, "b")], keep_trials=1, kin=KIN) == ["i10"]


@pytest.mark.parametrize(
    "use",
    [
        {"kind": "trial_taught", **place(0, "b"), "epoch": 0, "checkpoint": "c00", "digest": "d"},
        {"kind": "teacher_announced", **place(0, "b", 0), "identity": "x", "checkpoint": "c00", "digest": "d"},
        promoted(0, "b", 0),
    ],
    ids=["taught", "announced", "promoted"],
)
def test_teachers_stay(use: Event) -> None:
    """A trial that is taken up again asks for the teacher of its epoch, and would find nobody."""
    use = {"epoch": 3, "metrics": {"valid/both/mrr": 0.1}, **use}
    assert going([*ended(0.1, 0.4, grade=0), begun(0, "b"), promoted(1, grade=0), use], keep_trials=1) == []


def test_freed_trial_keeps_its_numbers_and_is_no_candidate() -> None:
    """Tables and the search would lose what the trial found; or promotion choose what is not there, or call it damaged."""
    state = after([*ended(0.1, 0.4, 0.3), promoted(1)], keep_trials=1)
    first, winner, third = state.of("a", 1)
    assert (third.freed, third.best_mrr, third.best_epoch, third.best_checkpoint, third.lost) == (
        True,
        0.3,
        3,
        None,
        False,
    )
    assert [one["checkpoint"] for one in third.reports] == [None]
    assert (winner.freed, winner.best_checkpoint) == (False, "c11")
    assert choose(candidates([first, winner, third], 6), 1.0).number == 1
    assert freed(state) == {("1", "i10"), ("1", "i12")}
    assert superfluous(state, replace(RULES, keep_trials=1)) == []


def test_work_that_is_done_anew_is_not_left_over_and_may_go_again() -> None:
    """A lineage that trains a freed trial again would lose its checkpoints at the next --resume, or keep them for ever."""
    state = after([*ended(0.1, 0.4), promoted(1)], keep_trials=1)
    state.apply(begun(5, "b", identity="i10"))
    assert freed(state) == set()
    state.apply({"kind": "trial_freed", **place(0)})
    assert not state.trials["b", 1, 5].freed, "a word that comes twice is about the former work"
    state.apply(reported(5, 0.1, "b"))
    assert state.trials["b", 1, 5].best_checkpoint == "c15"
    state.apply({**promoted(5, "b"), "identity": "elsewhere", "checkpoint": "c"})
    assert [one.identity for one in superfluous(state, replace(RULES, keep_trials=1))] == ["i10"]


def test_kin_are_the_grades_that_can_do_equal_work(campaign: Maker, ground: Ground) -> None:
    """Lineages that share a teacher would free it under each other; or all wait for all, and nothing go until the end."""
    own = {"layers": 3, "method": {"name": "none"}}
    methods = [{"name": "pmd"}, {"name": "logits"}]
    config = campaign({"layers": 6}, own, compare={"methods": methods, "seeds": [0, 1]}, storage={"keep_trials": 3})
    rules = rules_of(config, grade_plans(config, ground))
    assert rules.keep_trials == 3
    assert rules.kin["pmd-seed0", 0] == (("logits-seed0", 0),)
    assert rules.kin["pmd-seed0", 1] == ()
    weights = [{"name": "pmd", "beta": beta} for beta in (0.1, 0.2)]
    weighed = campaign({"layers": 6}, compare={"methods": weights}, storage={"keep_trials": 3})
    assert rules_of(weighed, grade_plans(weighed, ground)).kin["pmd1-seed0", 1], "without masks they are one"
    moving = campaign({"layers": 6}, compare={"methods": weights}, schedule={"name": "pipelined"})
    assert not rules_of(moving, grade_plans(moving, ground)).kin["pmd1-seed0", 1], "each has teachers of its own"
    assert rules.kin["pmd-seed0", 2] == (("logits-seed0", 2),)
    assert rules_of(campaign(), grade_plans(campaign(), ground)).keep_trials is None
    twice = campaign({"layers": 6}, {"layers": 6}, storage={"keep_trials": 3})
    kin = rules_of(twice, grade_plans(twice, ground)).kin
    assert not any(kin.values()), "the second is taught by the first, which is taught by another"
    beside = campaign({"layers": 6}, {"layers": 6}, schedule={"name": "independent"})
    assert rules_of(beside, grade_plans(beside, ground)).kin["main", 1] == (("main", 2),)
