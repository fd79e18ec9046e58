"""The jobs of one cluster, through Ray's job API: submit, look at, stop.

A job is a command that runs on the cluster, under a name of ours. Its state lies on the cluster and not with the client, so that a client may come
and go. Its exit code does too, although Ray's command line does not pass it on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.dashboard.modules.job import sdk
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from raydistill.errors import ConfigError, JobError
from raydistill.orchestration.reaching import ADDRESSES, api_address, authorization, refusal, try_address

IDENTITY = re.compile(r"\w[\w.-]*", re.ASCII)
REQUEST_SECONDS = 60.0
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_aiohttp: Any = getattr(sdk, "aiohttp", None)
"""The library Ray's client reads logs with; None where Ray was installed without its job API."""
BROKEN: tuple[type[Exception], ...] = (RuntimeError, OSError, *([_aiohttp.ClientError] if _aiohttp else []))
"""What a connection that broke off raises."""
TERMINATED = 128 + signal.SIGTERM


@dataclass(frozen=True)
class Job:
    """What a cluster says of one job.

    Attributes:
        identity: its name, as given when it was submitted.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        entrypoint: its command.
        exit_code: what its command ended with; None while it runs, and where it was stopped or never ran.
        message: what Ray says about the status.
        started, ended: seconds since 1970, on the cluster's clock.
        metadata: what was noted when it was submitted.
    """

    identity: str
    status: str
    entrypoint: str
    exit_code: int | None = None
    message: str = ""
    started: float | None = None
    ended: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it will change any more."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    def code(self) -> int:
        """The exit code a client passes on: the command's own, 128 and its signal where one ended it, 143 where it was stopped.

        Raises:
            JobError: the job failed without its command having ended.
        """
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return TERMINATED
        if self.exit_code is None:
            raise JobError(
                f"job {self.identity} is {self.status}: {self.message.strip() or 'the cluster does not say why'}",
                expected="a command that was started and ended by itself",
                consequence="there is no exit code to pass on",
                remedy="mend what is named above and submit again, with --resume where the run was begun",
            )
        return self.exit_code if self.exit_code >= 0 else 128 - self.exit_code


class Client(JobSubmissionClient):
    """Ray's client, which gives up on a request that gets no answer; its own waits for ever."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": REQUEST_SECONDS, **options})


class Jobs:
    """The jobs of one cluster.

    Args:
        address: of its dashboard; None = `RAY_API_SERVER_ADDRESS`, or else `RAY_ADDRESS`.

    Raises:
        ConfigError: no cluster is named, it cannot be reached, or it refuses the token.
    """

    def __init__(self, address: str | None = None) -> None:
        # Ray tells every upload and every closed connection; what users need to know, we tell.
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        if _aiohttp is None:
            raise ConfigError(
                "Ray is installed without its job API",
                expected="Ray as ray[default]",
                consequence="no job could be submitted or looked at",
                remedy="pip install 'raydistill[cluster]'",
            )
        self.address = api_address(address)
        self._headers = authorization()
        try_address(self.address, self._headers)
        with _unset(ADDRESSES), self._explained():
            self._client = Client(self.address, headers=dict(self._headers))

    def submit(
        self, command: str, identity: str, files: Path, environment: Mapping[str, str], metadata: Mapping[str, str]
    ) -> None:
        """Send a folder and have a command run in it, on the head of the cluster.

        Args:
            command: for the shell, run in the unpacked folder.
            identity: the name the job is to have.
            files: a folder; every process of the job finds it in its Python path.
            environment: variables of every process of the job.
            metadata: notes that are kept with the job.

        Raises:
            ConfigError: the token is refused.
            JobError: the cluster did not take it.
        """
        runtime = {"working_dir": str(files), "env_vars": dict(environment)}
        with self._explained():
            self._client.submit_job(
                entrypoint=command, submission_id=identity, runtime_env=runtime, metadata=dict(metadata)
            )

    def one(self, identity: str) -> Job:
        """The state of one job.

        Raises:
            ConfigError: there is none of that name.
            JobError: the cluster stopped answering.
        """
        with self._explained(identity):
            return _job(self._client.get_job_info(identity))

    def all(self) -> list[Job]:
        """The jobs that were submitted, the newest last."""
        with self._explained():
            jobs = [_job(one) for one in self._client.list_jobs() if one.submission_id]
        return sorted(jobs, key=lambda job: job.started or 0.0)

    def stop(self, identity: str) -> bool:
        """Send SIGTERM to a job's command; returns whether it was running. Does not wait for it.

        Raises:
            ConfigError: there is none of that name.
        """
        with self._explained(identity):
            return bool(self._client.stop_job(identity))

    def log(self, identity: str) -> AsyncIterator[str]:
        """A job's log from its beginning, in pieces, as it grows. Breaks off with the errors of `BROKEN` when the connection does."""
        pieces: AsyncIterator[str] = self._client.tail_job_logs(identity)
        return pieces

    def whole_log(self, identity: str) -> str:
        """What a job has written so far."""
        with self._explained(identity):
            return str(self._client.get_job_logs(identity))

    @contextlib.contextmanager
    def _explained(self, identity: str = "") -> Iterator[None]:
        if identity and not IDENTITY.fullmatch(identity):
            raise self._unknown(identity)
        try:
            yield
        except AuthenticationError:
            raise refusal(self.address, 403, bool(self._headers)) from None
        except (RuntimeError, OSError, ValueError) as problem:
            # Of the answer's status, Ray's client keeps the text alone.
            if identity and "status code 404" in str(problem):
                raise self._unknown(identity) from None
            raise JobError(
                f"{self.address}: {str(problem).strip() or type(problem).__name__}",
                expected="an answer of the cluster's job API",
                remedy="look whether the cluster is well (its dashboard, `ray status`), then try again",
            ) from problem

    def _unknown(self, identity: str) -> ConfigError:
        return ConfigError(
            f"no job {identity!r} on {self.address}",
            expected="the name that `raydistill submit` printed",
            remedy=f"list them: raydistill jobs --address {self.address}",
        )


def _job(details: Any) -> Job:
    started, ended = details.start_time, details.end_time
    return Job(
        details.submission_id or details.job_id or "",
        str(getattr(details.status, "value", details.status)),
        details.entrypoint,
        details.driver_exit_code,
        details.message or "",
        None if started is None else started / 1000,
        None if ended is None else ended / 1000,
        details.metadata or {},
    )


@contextlib.contextmanager
def _unset(names: tuple[str, ...]) -> Iterator[None]:
    """Without these variables of the environment: Ray's client takes them before its own argument."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)
