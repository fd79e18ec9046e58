"""The coordinator without Ray: what it answers while one of its decisions waits for files."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydistill.orchestration import shelf
from raydistill.orchestration.coordinator import Coordinator
from raydistill.orchestration.library import Loan
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.rules import Rules

TEACHER, STUDENT, TWIN = ("main", 0, 0), ("main", 1, 0), ("main", 1, 1)
SECONDS = 20.0


class Slow:
    """Something that takes until it is let go."""

    def __init__(self, act: Callable[..., Any]) -> None:
        self.act, self.calls = act, 0
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        self.begun.set()
        assert self.go.wait(SECONDS), "nobody was answered meanwhile"
        return self.act(*arguments)


async def started(root: Path) -> Coordinator:
    one = Coordinator(RunStore.at(root), Rules("pipelined", 0.0, False, 1, 2, epochs=(3, 3), sizes=(12, 6)))
    await one.start("f", ["main"], ["0-teacher", "1-layers6"])
    return one


async def kinds(one: Coordinator) -> list[str]:
    return [event["kind"] for event in await one.news(0)]


async def answered_meanwhile(one: Coordinator, slow: Slow) -> None:
    """Ask everything that may not wait, while something takes."""
    await asyncio.to_thread(slow.begun.wait, SECONDS)
    await one.enter(STUDENT)
    assert (await one.wait(TEACHER, -1)).status == "running"
    listening = asyncio.create_task(one.listen(TEACHER))
    await asyncio.sleep(0)
    ended = asyncio.create_task(one.halt_all(SECONDS))
    assert await listening
    await one.rest(TEACHER)
    assert await ended == 0


def test_nobody_waits_for_a_teacher_that_is_copied_but_other_decisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM would be heard when gigabytes have been copied, which is later than SIGKILL; or a decision be made between the two halves of another."""
    slow = Slow(shutil.copyfile)
    monkeypatch.setattr(shelf, "link_or_copy", slow)
    checkpoint = tmp_path / "grades" / "0-teacher" / "1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_text("w")

    async def scene() -> None:
        one = await started(tmp_path)
        await one.begin(TEACHER, "i", {})
        await one.begin(STUDENT, "j", {})
        metrics = {"valid/both/mrr": 0.5}
        reporting = asyncio.create_task(one.report(TEACHER, 1, metrics, str(checkpoint), "d" * 64, False))
        await answered_meanwhile(one, slow)
        assert await one.teach(STUDENT, 0) is None
        assert (await kinds(one))[-1] == "trial_reported"
        failing = asyncio.create_task(one.fail(STUDENT, "the loss is nan"))
        await asyncio.sleep(0.05)
        assert not failing.done()
        slow.go.set()
        assert not await reporting
        await failing
        assert (await kinds(one))[-3:] == ["trial_reported", "teacher_announced", "trial_failed"]

    asyncio.run(scene())


class Lender:
    """A library that has one trial, and takes its time."""

    def __init__(self) -> None:
        report = {"epoch": 3, "metrics": {"valid/both/mrr": 0.5}, "checkpoint": "c", "digest": "d", "time": 1.0}
        self.borrow = Slow(lambda identity, folder: Loan("elsewhere", 3, (report,)))


def test_equal_work_is_borrowed_once_while_others_are_answered(tmp_path: Path) -> None:
    """Of two trials that begin meanwhile the second would be trained beside the first, or be entered twice."""

    async def scene() -> None:
        one, lender = await started(tmp_path), Lender()
        await one.begin(TEACHER, "i", {})
        one.ladder.library = lender  # type: ignore[assignment]
        beginning = [asyncio.create_task(one.begin(key, "same", {})) for key in (STUDENT, TWIN)]
        await answered_meanwhile(one, lender.borrow)
        assert (await kinds(one))[-1] == "trial_begun"
        lender.borrow.go.set()
        assert await asyncio.gather(*beginning) == ["reused", "reused"]
        assert lender.borrow.calls == 1
        assert (await one.record(TWIN)).reused_from == STUDENT

    asyncio.run(scene())


def test_decision_whose_files_fail_lets_the_next_one_decide(tmp_path: Path) -> None:
    """A turn that is never given back: every trial would wait for ever."""

    async def scene() -> None:
        one, lender = await started(tmp_path), Lender()
        one.ladder.library = lender  # type: ignore[assignment]
        lender.borrow = Slow(lambda identity, folder: 1 / 0)
        lender.borrow.go.set()
        with pytest.raises(ZeroDivisionError):
            await one.begin(STUDENT, "same", {})
        one.ladder.library = None
        assert await asyncio.wait_for(one.begin(STUDENT, "same", {}), SECONDS) == "run"

    asyncio.run(scene())
