"""Following a job's log to its end, over connections that break, or die without a word."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from time import monotonic as clock

from raydistill.errors import JobError
from raydistill.orchestration.jobs import BROKEN, Job, Jobs

LOOK_SECONDS = 5.0
"""How long a log may be silent before the job is asked whether it is over."""
RETRY_SECONDS = 1.0
LOST: tuple[type[Exception], ...] = (JobError, *BROKEN)
LOST_SECONDS = 60.0
"""How long a cluster may be out of reach before the client gives up on it. The job does not notice."""


def follow(jobs: Jobs, identity: str, write: Callable[[str], None]) -> Job:
    """Pass on a job's log from its beginning, as it grows, until the job is over.

    Args:
        jobs: the cluster's.
        identity: the job's name.
        write: takes the next piece of the log.

    Returns:
        The job as it ended.

    Raises:
        ConfigError: there is none of that name.
        JobError: the cluster was out of reach for a minute.
    """
    jobs.one(identity)
    return asyncio.run(_follow(jobs, identity, write))


async def _follow(jobs: Jobs, identity: str, write: Callable[[str], None]) -> Job:
    shown, heard = 0, clock()
    while True:
        passed = 0
        try:
            async for text in _pieces(jobs, identity):
                heard = clock()
                # A new connection starts from the first line again.
                new = text[max(0, shown - passed) :]
                passed += len(text)
                if new:
                    write(new)
                    shown = passed
            job = jobs.one(identity)
            heard = clock()
            if job.is_over:
                return job
        except BrokenPipeError:
            # Not the cluster is out of reach but whoever reads what is written.
            raise
        except LOST as problem:
            if clock() - heard > LOST_SECONDS:
                raise _lost(jobs.address, identity, problem) from None
        await asyncio.sleep(RETRY_SECONDS)


async def _pieces(jobs: Jobs, identity: str) -> AsyncIterator[str]:
    """The log until it ends, or until it is silent and the job over; then what it has not told yet is asked for at once."""
    log, told = jobs.log(identity), 0
    while True:
        waiting = asyncio.ensure_future(anext(log))
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=LOOK_SECONDS)
            if waiting.done():
                break
            if jobs.one(identity).is_over:
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await waiting
                yield jobs.whole_log(identity)[told:]
                return
            # The log is silent, and the cluster has answered all the same.
            yield ""
        try:
            piece = waiting.result()
        except StopAsyncIteration:
            return
        told += len(piece)
        yield piece


def _lost(address: str, identity: str, problem: Exception) -> JobError:
    reason = problem.received if isinstance(problem, JobError) else str(problem) or type(problem).__name__
    return JobError(
        f"{address} has not answered for {LOST_SECONDS:g} seconds: {reason}",
        expected="a cluster that can be reached",
        consequence=f"job {identity} goes on there as long as the cluster lives, but nobody sees its log",
        remedy=f"look again later: raydistill jobs {identity} --follow --address {address}",
    )
