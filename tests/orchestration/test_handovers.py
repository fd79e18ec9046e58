"""Workers that stay for the next trial, without Ray: two sides of one event loop."""

from __future__ import annotations

import asyncio

import pytest

from raydistill.orchestration import handovers
from raydistill.orchestration.handovers import Handovers

KEY, NEXT, THIRD = ("main", 1, 0), ("main", 1, 1), ("main", 1, 2)


def test_workers_get_the_trial_that_was_meant_for_them_whoever_asks_first() -> None:
    """Workers that wait beside a trial that waits for workers; or two trials given to the same ones."""

    async def scene() -> None:
        one = Handovers()
        waiting = asyncio.create_task(one.take_up(KEY))
        other = asyncio.create_task(one.take_up(NEXT))
        await asyncio.sleep(0.01)
        assert await one.hand_over(KEY, THIRD)
        assert await asyncio.wait_for(waiting, 1) == THIRD
        assert not other.done()
        assert await one.hand_over(NEXT, None)
        assert await asyncio.wait_for(other, 1) is None
        assert await one.hand_over(THIRD, KEY)
        assert await asyncio.wait_for(one.take_up(THIRD), 1) == KEY

    asyncio.run(scene())


def test_workers_that_have_left_are_given_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial handed to nobody waits for ever."""
    monkeypatch.setattr(handovers, "LINGER_SECONDS", 0.05)

    async def scene() -> None:
        one = Handovers()
        assert await one.take_up(KEY) is None
        assert not await one.hand_over(KEY, NEXT)
        await one.begin(KEY)
        assert await one.hand_over(KEY, NEXT)

    asyncio.run(scene())


def test_trial_that_goes_on_with_others_forgets_what_came_after_it_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its new workers would turn to a trial that others are training."""
    monkeypatch.setattr(handovers, "LINGER_SECONDS", 0.05)

    async def scene() -> None:
        one = Handovers()
        assert await one.hand_over(KEY, NEXT)
        await one.begin(KEY)
        assert await one.take_up(KEY) is None
        await one.hand_over(NEXT, NEXT)
        assert await one.take_up(NEXT) == NEXT
        assert await one.take_up(NEXT) is None

    asyncio.run(scene())


def test_trial_that_goes_on_with_others_sends_away_who_waits_for_what_follows_it() -> None:
    """Workers of a paused trial linger for what follows it; once others had gone on with it, they would take what was meant for those."""

    async def scene() -> None:
        one = Handovers()
        lingering = asyncio.create_task(one.take_up(KEY))
        await asyncio.sleep(0.01)
        await one.begin(KEY)
        assert await asyncio.wait_for(lingering, 1) is None
        assert await one.hand_over(KEY, NEXT), "those who went on with it are still there"
        assert await asyncio.wait_for(one.take_up(KEY), 1) == NEXT

    asyncio.run(scene())
