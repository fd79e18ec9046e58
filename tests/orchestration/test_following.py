"""Following a log over connections that break, with a fake cluster in place of a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from raydistill.errors import ConfigError, JobError
from raydistill.orchestration import following
from raydistill.orchestration.following import follow
from raydistill.orchestration.jobs import Job

SILENCE = object()


class FakeJobs:
    """A cluster whose connections and states are given in advance; the last state stays."""

    address = "http://there:8265"

    def __init__(self, connections: list[list[object]], states: list[object], whole: str = "") -> None:
        self.connections, self.states, self.whole = connections, states, whole

    def one(self, identity: str) -> Job:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        return Job(identity, str(state), "command", exit_code=0)

    def whole_log(self, identity: str) -> str:
        return self.whole

    async def log(self, identity: str) -> AsyncIterator[str]:
        pieces = self.connections.pop(0) if self.connections else []
        for piece in pieces:
            if isinstance(piece, Exception):
                raise piece
            if piece is SILENCE:
                await asyncio.sleep(3600)
            yield str(piece)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds for hours."""
    monkeypatch.setattr(following, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.02)


def followed(jobs: FakeJobs) -> tuple[str, Job]:
    written: list[str] = []
    ended = follow(jobs, "job", written.append)  # type: ignore[arg-type]
    return "".join(written), ended


def test_log_is_passed_on_to_its_end() -> None:
    """The last lines say why a campaign failed."""
    text, ended = followed(FakeJobs([["one\n", "two\n"]], ["RUNNING", "SUCCEEDED"]))
    assert (text, ended.status) == ("one\ntwo\n", "SUCCEEDED")


def test_broken_connection_goes_on_where_it_broke() -> None:
    """Every connection tells the log from its first line: lines would come twice, or the job be given up."""
    connections: list[list[object]] = [["one\ntw", RuntimeError("closed")], ["one\n", "two\nth"], ["one\ntwo\nthree\n"]]
    text, _ = followed(FakeJobs(connections, ["RUNNING", "RUNNING", "SUCCEEDED"]))
    assert text == "one\ntwo\nthree\n"


def test_connection_that_died_without_a_word_ends_with_the_job() -> None:
    """A client that waits for ever for a job that is over."""
    jobs = FakeJobs([["one\n", SILENCE]], ["RUNNING", "RUNNING", "RUNNING", "STOPPED"], whole="one\ntwo\n")
    text, ended = followed(jobs)
    assert (text, ended.status) == ("one\ntwo\n", "STOPPED")


def test_silent_log_of_a_cluster_that_answers_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch writes nothing for minutes: the first connection that broke after it ended the client of a healthy job, exit code 5."""

    class Slow(FakeJobs):
        """Ten seconds go by with every look."""

        looks, broken = 0, False

        def one(self, identity: str) -> Job:
            self.looks += 1
            return super().one(identity)

        async def log(self, identity: str) -> AsyncIterator[str]:
            yield "one\n"
            while self.looks < 10:
                await asyncio.sleep(0.001)
            if not self.broken:
                self.broken, self.states = True, ["SUCCEEDED"]
                raise RuntimeError("closed")
            yield "two\n"

    jobs = Slow([], ["RUNNING"])
    monkeypatch.setattr(following, "clock", lambda: 10.0 * jobs.looks)
    text, _ = followed(jobs)
    assert text == "one\ntwo\n"


def test_job_that_was_over_before_its_log_began_is_told_in_full() -> None:
    """A configuration that is refused at once: an exit code without a word of why."""
    text, ended = followed(FakeJobs([[SILENCE]], ["PENDING", "FAILED"], whole="error: why\n"))
    assert (text, ended.status) == ("error: why\n", "FAILED")


def test_cluster_out_of_reach_for_a_moment_is_waited_for() -> None:
    """A dashboard that restarts must not end the client of a job of days."""
    lost = JobError("no answer", expected="e", remedy="r")
    text, _ = followed(FakeJobs([["one\n"], ["one\ntwo\n"]], ["RUNNING", lost, "SUCCEEDED"]))
    assert text == "one\ntwo\n"


def test_cluster_out_of_reach_for_long_is_given_up_with_a_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that hangs on a cluster that was shut down; or one that says the job failed."""
    monkeypatch.setattr(following, "LOST_SECONDS", 0.0)
    lost = JobError("no answer", expected="e", remedy="r")
    with pytest.raises(JobError, match="has not answered for") as caught:
        followed(FakeJobs([], ["RUNNING", lost]))
    assert "raydistill jobs job --follow --address http://there:8265" in caught.value.remedy


def test_job_that_vanished_is_an_error_at_once() -> None:
    """A head that came back without its jobs answers; waiting for a minute changes nothing."""
    gone = ConfigError("no job 'job'", expected="e", remedy="r")
    with pytest.raises(ConfigError, match="no job"):
        followed(FakeJobs([["one\n"]], ["RUNNING", gone]))


def test_reader_that_has_gone_is_no_lost_cluster() -> None:
    """`raydistill submit ... | head`: the pipe is broken, not the connection."""

    def write(text: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        follow(FakeJobs([["one\n"]], ["RUNNING"]), "job", write)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "ended_with", "code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", 70, 70), ("FAILED", -9, 137), ("STOPPED", None, 143)],
)
def test_exit_code_is_the_commands_own(status: str, ended_with: int | None, code: int) -> None:
    """Ray's own client makes 1 of all of them, and a scheduler cannot tell a wrong configuration from a lost machine."""
    assert Job("job", status, "command", exit_code=ended_with).code() == code


def test_job_that_never_ran_has_no_exit_code() -> None:
    """Its environment could not be made: 0 or 1 would be an invention."""
    with pytest.raises(JobError, match="job job is FAILED: no room"):
        Job("job", "FAILED", "command", message="no room\n").code()
