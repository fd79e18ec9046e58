"""Workers that stay for the next trial, without Ray: two sides, each a thread."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from raydistill.orchestration import handovers
from raydistill.orchestration.handovers import Following, Handovers
from raydistill.orchestration.shared import Shared
from raydistill.planning.records import TrialKey

KEY, NEXT, THIRD = ("main", 1, 0), ("main", 1, 1), ("main", 2, 0)


def following(key: TrialKey) -> Following:
    """A trial of whatever study."""
    return Following(key, None)  # type: ignore[arg-type]


def test_workers_get_the_trial_that_was_meant_for_them_whoever_asks_first() -> None:
    """Workers that wait beside a trial that waits for workers; or two trials given to the same ones."""
    one = Handovers(Shared())
    with ThreadPoolExecutor() as threads:
        waiting, other = threads.submit(one.take_up, KEY), threads.submit(one.take_up, NEXT)
        time.sleep(0.05)
        assert one.hand_over(KEY, following(THIRD))
        assert waiting.result(1) == following(THIRD)
        assert not other.done()
        assert one.hand_over(NEXT, None)
        assert other.result(1) is None
        assert one.hand_over(THIRD, following(KEY))
        assert threads.submit(one.take_up, THIRD).result(1) == following(KEY)


def test_workers_that_have_left_are_given_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial handed to nobody waits for ever."""
    monkeypatch.setattr(handovers, "LINGER_SECONDS", 0.05)
    one = Handovers(Shared())
    assert one.take_up(KEY) is None
    assert not one.hand_over(KEY, following(NEXT))
    one.begin(KEY)
    assert one.hand_over(KEY, following(NEXT))


def test_trial_that_goes_on_with_others_forgets_what_came_after_it_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its new workers would turn to a trial that others are training."""
    monkeypatch.setattr(handovers, "LINGER_SECONDS", 0.05)
    one = Handovers(Shared())
    assert one.hand_over(KEY, following(NEXT))
    one.begin(KEY)
    assert one.take_up(KEY) is None
    one.hand_over(NEXT, following(NEXT))
    assert one.take_up(NEXT) == following(NEXT)
    assert one.take_up(NEXT) is None


def test_trial_that_goes_on_with_others_sends_away_who_waits_for_what_follows_it() -> None:
    """Workers of a paused trial linger for what follows it; once others had gone on with it, they would take what was meant for those."""
    one = Handovers(Shared())
    with ThreadPoolExecutor() as threads:
        lingering = threads.submit(one.take_up, KEY)
        time.sleep(0.05)
        one.begin(KEY)
        assert lingering.result(1) is None
        assert one.hand_over(KEY, following(NEXT)), "those who went on with it are still there"
        assert threads.submit(one.take_up, KEY).result(1) == following(NEXT)
