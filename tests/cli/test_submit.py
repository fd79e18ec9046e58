"""`raydistill submit`, `jobs` and `stop`, with a fake cluster in place of Ray's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from raydistill.errors import ConfigError, JobError


class FakeJob:
    """The state of one job."""

    def __init__(self, identity: str, status: str, exit_code: int | None) -> None:
        self.identity, self.status, self.exit_code = identity, status, exit_code
        self.entrypoint, self.message, self.started, self.ended = "command", "why\n", 1000.0, 1090.0
        self.metadata = {"run": "/runs/first", "campaign": "ladder", "raydistill": "0"}
        self.is_over = status != "RUNNING"

    def code(self) -> int:
        return self.exit_code or 0


class FakeJobs:
    """A cluster with the jobs `jobs`."""

    jobs: dict[str, FakeJob]
    stopped: list[str]

    def __init__(self, address: str | None = None) -> None:
        self.address = address or "http://default:8265"
        if address == "http://down:8265":
            raise ConfigError("no answer", expected="e", remedy="r")

    def one(self, identity: str) -> FakeJob:
        return self.jobs[identity]

    def all(self) -> list[FakeJob]:
        return list(self.jobs.values())

    def stop(self, identity: str) -> bool:
        self.stopped.append(identity)
        self.jobs[identity] = FakeJob(identity, "STOPPED", None)
        return True


@pytest.fixture
def cluster(
    fake_module: Callable[..., None], smallest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Commands meet a fake cluster; what was submitted, and what following does, stands in the returned mapping."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ladder.yaml").write_text(smallest, encoding="utf-8")
    FakeJobs.jobs = {"a-1": FakeJob("a-1", "FAILED", 3), "b-2": FakeJob("b-2", "RUNNING", None)}
    FakeJobs.stopped = []
    sent: dict[str, Any] = {"follow": lambda write: FakeJob("ladder-1", "FAILED", 4)}

    def submit(jobs: Any, config: Any, name: str, run_dir: str, *, resume: bool, environment: dict[str, str]) -> str:
        sent.update(config=config, name=name, run_dir=run_dir, resume=resume, environment=environment)
        return "ladder-1"

    def follow(jobs: Any, identity: str, write: Callable[[str], None]) -> FakeJob:
        write("line\n")
        result: FakeJob = sent["follow"](write)
        return result

    fake_module("raydistill.orchestration.jobs", Jobs=FakeJobs)
    fake_module("raydistill.orchestration.following", follow=follow)

    def submit_script(jobs: Any, script: Path, arguments: tuple[str, ...], *, environment: dict[str, str]) -> str:
        sent.update(script=script, arguments=arguments, environment=environment)
        return "ladder-1"

    fake = {
        "submit": submit,
        "submit_script": submit_script,
        "variables": lambda given: dict(one.split("=") for one in given),
    }
    module = {**fake, "absolute": lambda path: str(Path(path).absolute())}
    fake_module("raydistill.orchestration.submission", **module)

    return sent


def test_submit_ends_with_the_code_of_the_job(call: Callable[..., Result], cluster: dict[str, Any]) -> None:
    """A pipeline that goes on after a campaign that failed."""
    result = call("submit", "ladder.yaml", "--set", "training.epochs=3", "--env", "A=b", "--resume")
    assert result.exit_code == 4
    assert result.stdout == "line\n"
    assert "job ladder-1: FAILED, exit code 4" in result.stderr
    assert cluster["config"].training.epochs == 3
    assert (cluster["name"], cluster["resume"], cluster["environment"]) == ("ladder", True, {"A": "b"})
    assert cluster["run_dir"] == str(Path("runs/ladder").absolute())


def test_script_gets_what_follows_the_dashes(call: Callable[..., Result], cluster: dict[str, Any]) -> None:
    """Options of the script that `submit` takes for its own, or refuses."""
    result = call(
        "submit", "jobs/evaluate.py", "--env", "A=1", "--no-wait", "--", "checkpoint", "data", "--workers", "2"
    )
    assert (result.exit_code, result.stdout) == (0, "ladder-1\n")
    assert cluster["script"] == Path("jobs/evaluate.py")
    assert cluster["arguments"] == ("checkpoint", "data", "--workers", "2")
    assert cluster["environment"] == {"A": "1"}


def test_options_of_a_campaign_are_refused_beside_a_script(
    call: Callable[..., Result], cluster: dict[str, Any]
) -> None:
    """They would be dropped without a word."""
    result = call("submit", "look.py", "--set", "training.epochs=1", "--resume")
    assert result.exit_code == 2
    assert "--set, --resume: options of a campaign" in result.stderr
    result = call("submit", "ladder.yaml", "--", "data")
    assert result.exit_code == 2
    assert "data: a campaign takes no arguments" in result.stderr
    assert "script" not in cluster
    assert "config" not in cluster


def test_submit_without_waiting_prints_the_name_alone(call: Callable[..., Result], cluster: dict[str, Any]) -> None:
    """Scripts keep what is on standard output."""
    result = call("submit", "ladder.yaml", "--no-wait")
    assert (result.exit_code, result.stdout) == (0, "ladder-1\n")


def test_interrupted_client_says_how_to_reach_the_job(call: Callable[..., Result], cluster: dict[str, Any]) -> None:
    """Ctrl-C on a campaign of days: does it still run, and where?"""

    def interrupted(write: Callable[[str], None]) -> FakeJob:
        raise KeyboardInterrupt

    cluster["follow"] = interrupted
    result = call("submit", "ladder.yaml", "--address", "http://there:8265")
    assert result.exit_code == 130
    assert "job ladder-1 goes on without this client" in result.stderr
    assert "raydistill jobs ladder-1 --follow --address http://there:8265" in result.stderr
    assert "raydistill stop ladder-1 --address http://there:8265" in result.stderr


def test_wrong_configuration_is_refused_before_the_cluster_is_asked(
    call: Callable[..., Result], cluster: dict[str, Any]
) -> None:
    """A misspelt key found out minutes later, in the log of a job."""
    result = call("submit", "ladder.yaml", "--set", "training.epcohs=3", "--address", "http://down:8265")
    assert result.exit_code == 2
    assert "epcohs" in result.stderr
    assert "config" not in cluster


def test_job_without_an_exit_code_is_an_error(call: Callable[..., Result], cluster: dict[str, Any]) -> None:
    """A job whose environment could not be made has not succeeded."""

    def failed(write: Callable[[str], None]) -> FakeJob:
        raise JobError("job ladder-1 is FAILED: no room", expected="e", remedy="r")

    cluster["follow"] = failed
    result = call("submit", "ladder.yaml")
    assert result.exit_code == 5
    assert "no room" in result.stderr


def test_jobs_are_listed(call: Callable[..., Result], cluster: dict[str, Any]) -> None:
    """Which of the jobs was mine, and how did it end?"""
    result = call("jobs")
    assert result.exit_code == 0
    [first] = [line for line in result.stdout.splitlines() if "a-1" in line]
    assert first.replace("│", "").split()[:3] == ["a-1", "FAILED", "3"]
    assert "/runs/first" in first
    assert "90 s" in first


def test_one_job_is_shown_for_programs(call: Callable[..., Result], cluster: dict[str, Any]) -> None:
    """Scripts wait for a job by asking for its state."""
    content = json.loads(call("jobs", "a-1", "--json").stdout)
    assert (content["job"], content["status"], content["exit_code"], content["run"]) == (
        "a-1",
        "FAILED",
        3,
        "/runs/first",
    )
    listed = json.loads(call("jobs", "--json").stdout)
    assert [one["job"] for one in listed["jobs"]] == ["a-1", "b-2"]


def test_following_needs_a_job(call: Callable[..., Result], cluster: dict[str, Any]) -> None:
    """A log of all jobs does not exist."""
    assert call("jobs", "--follow").exit_code == 2
    assert call("jobs", "a-1", "--follow", "--json").exit_code == 2


def test_stop_waits_until_the_job_is_over(call: Callable[..., Result], cluster: dict[str, Any]) -> None:
    """A run that is resumed while its first job still saves is refused."""
    result = call("stop", "b-2")
    assert (result.exit_code, result.stdout) == (0, "job b-2: STOPPED\n")
    assert FakeJobs.stopped == ["b-2"]


def test_stopping_what_is_over_changes_nothing(call: Callable[..., Result], cluster: dict[str, Any]) -> None:
    """A script that cleans up after a campaign that failed must not fail too."""
    result = call("stop", "a-1")
    assert (result.exit_code, result.stdout) == (0, "job a-1 was over already: FAILED\n")
    assert FakeJobs.stopped == []
