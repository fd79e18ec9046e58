"""Natural mistakes about a cluster's address and token, told as such before anything is started."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import AuthenticationError

from raydistill.errors import ConfigError
from raydistill.orchestration.cluster import connected

ADDRESS = "127.0.0.1:6379"
RAYS_ADVICE = "Ensure that the token for the cluster is available"
CONNECT = """
from raydistill.cli.failures import explained
from raydistill.orchestration.cluster import connected
with explained(), connected():
    pass
"""


@pytest.fixture(autouse=True)
def _unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster and no token of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)


def fail_with(monkeypatch: pytest.MonkeyPatch, problem: Exception) -> None:
    """Let Ray refuse every cluster; one that other tests have started stays as it is."""

    def init(*_: Any, **__: Any) -> None:
        raise problem

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)


def connect_elsewhere(**variables: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, because Ray reads a token only once."""
    command = [sys.executable, "-c", CONNECT]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)


@pytest.mark.parametrize("address", [None, ADDRESS])
def test_token_file_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    """After `cluster/local.sh stop`, the same shell still names its token: exit 70, a fault of raydistill."""
    fail_with(monkeypatch, AuthenticationError("RAY_AUTH_TOKEN_PATH is set but file cannot be opened: /x. y/token"))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/x. y/token")
    with pytest.raises(ConfigError) as caught, connected(address):
        pass
    assert caught.value.received.endswith(": RAY_AUTH_TOKEN_PATH is set but file cannot be opened: /x. y/token")
    assert RAYS_ADVICE not in str(caught.value)
    assert "unset" in caught.value.remedy
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN and", "RAY_AUTH_TOKEN_PATH"):
        assert name in caught.value.remedy
    assert ("RAY_ADDRESS" in caught.value.remedy) is (address is not None)


@pytest.mark.parametrize("problem", [RuntimeError("no gcs"), Exception("no gcs"), TimeoutError("no gcs")])
def test_cluster_that_does_not_come_up_is_told(monkeypatch: pytest.MonkeyPatch, problem: Exception) -> None:
    """A machine without memory or threads to spare: a traceback, and a fault of raydistill."""
    fail_with(monkeypatch, problem)
    with pytest.raises(ConfigError, match="did not start: no gcs"), connected("local"):
        pass


def test_cluster_without_a_token_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A variable that was set for another program opens ours to everybody on the machine."""
    fail_with(monkeypatch, RuntimeError("stop here"))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ConfigError), connected("local"):
        pass
    assert "RAY_AUTH_MODE is disabled" in caplog.text


def test_full_disk_is_told_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which file found no room says more than that Ray did not start."""
    fail_with(monkeypatch, OSError(errno.ENOSPC, "no room", "/tmp/x"))
    with pytest.raises(OSError, match="no room"), connected("local"):
        pass


@pytest.mark.parametrize("variables", [{}, {"RAY_ADDRESS": ADDRESS}], ids=["own", "other"])
def test_ray_refuses_a_token_file_that_is_gone(tmp_path: Path, variables: dict[str, str]) -> None:
    """Another Ray may say so by another error, and the test above would not see it."""
    gone = tmp_path / "gone"
    done = connect_elsewhere(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(gone), **variables)
    assert done.returncode == 2, done.stderr
    assert str(gone) in done.stderr
    assert "what to do: " in done.stderr


@pytest.mark.parametrize("address", ["ray://head:10001", "http://127.0.0.1:8265", "redis://head:6379", "os://x"])
@pytest.mark.parametrize("given", ["argument", "variable", "auto"])
def test_address_with_a_scheme_is_refused(monkeypatch: pytest.MonkeyPatch, address: str, given: str) -> None:
    """Ray Client connects, and what comes then fails with an AttributeError; of another scheme Ray imports the module."""
    fail_with(monkeypatch, AssertionError("Ray was asked"))
    monkeypatch.setenv("RAY_ADDRESS", ADDRESS if given == "argument" else address)
    with (
        pytest.raises(ConfigError, match="with a scheme") as caught,
        connected({"argument": address, "variable": None, "auto": "auto"}[given]),
    ):
        pass
    assert address in caught.value.received
    assert "RAY_ADDRESS" in caught.value.remedy


def test_last_line_of_a_traceback_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Ray's message readers saw `Traceback (most recent call last):`, or that it failed to connect."""
    trace = f'Traceback (most recent call last):\n  File "a.py"\nray.exceptions.AuthenticationError: RPC error: wrong. {RAYS_ADVICE}.\n'
    problem = ConnectionError("Failed to connect to Ray cluster")
    problem.__cause__ = RuntimeError(f"Failed to connect to GCS. Last connection error: {trace}")
    fail_with(monkeypatch, problem)
    with pytest.raises(ConfigError) as caught, connected(ADDRESS):
        pass
    assert caught.value.received == f"Ray cluster {ADDRESS}: RPC error: wrong"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "The cluster was started with:\n    Python: 3.11\nThis process was started with:\n    Python: 3.12\n",
            "The cluster was started with: Python: 3.11 This process was started with: Python: 3.12",
        ),
        ("", "RuntimeError"),
        ("word " * 200, "word " * 59 + "..."),
    ],
    ids=["lines", "nothing", "long"],
)
def test_other_messages_are_told_on_one_line(monkeypatch: pytest.MonkeyPatch, said: str, told: str) -> None:
    """Of two versions that differ, the last line alone names one; and an empty message has none."""
    fail_with(monkeypatch, RuntimeError(said))
    with pytest.raises(ConfigError) as caught, connected(ADDRESS):
        pass
    assert caught.value.received == f"Ray cluster {ADDRESS}: {told}"


@pytest.mark.ray
def test_wrong_token_is_told_as_such(cluster: None) -> None:
    """`Failed to connect`, to a cluster that everybody else reaches."""
    address = ray.get_runtime_context().gcs_address
    # Ray's patience with a head that is about to start; without it the token is refused for 20 seconds.
    done = connect_elsewhere(RAY_ADDRESS=address, RAY_AUTH_TOKEN="wrong" * 12, RAY_gcs_server_port_wait_time_s="1")
    assert done.returncode == 2, done.stderr
    told = done.stderr[done.stderr.index("error: Ray cluster") :]
    assert told.startswith(f"error: Ray cluster {address}: ")
    assert "token is missing or incorrect" in told.splitlines()[0]
    assert "wrong" not in told
    assert RAYS_ADVICE not in told
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        assert name in told


def visible() -> str | None:
    """The GPUs that a process may see."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.ray
def test_who_was_given_no_gpu_sees_none(cluster: None) -> None:
    """Trials that are to train on CPUs, and all train on the first GPU, which nobody has reserved."""
    assert ray.get(ray.remote(num_cpus=0)(visible).remote()) == ""
