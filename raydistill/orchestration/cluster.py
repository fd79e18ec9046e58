"""Reaching a Ray cluster: one of our own on this machine, unless an address is named."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import auto_init_hook, ray_constants
from ray._private.node import Node
from ray.exceptions import AuthenticationError

from raydistill.orchestration import reaper
from raydistill.orchestration.refusals import check_kind, not_joined, not_started, not_up

logger = logging.getLogger(__name__)
PREFIX = "rd-"
AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
ENVIRONMENT = {
    # That workers have ended, or one has died, is seen at the next look at them: by default two seconds, longer than many an epoch. Every look takes from what they
    # train with where they have the machine's only cores.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Room may be short for long, on a cluster that is shared or has to grow; Ray would give a trial up after four minutes.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Of a search of our own, Tune would start one process after the other; our searcher says itself how many.
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Whoever was given no GPU shall see none: Ray hides them only where it is told to, and torch takes what it sees.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}

PRIVATE = {"RAY_enable_metrics_collection": "0", "AUTOSCALER_METRIC_PORT": "-1", "DASHBOARD_METRIC_PORT": "-1"}
"""For clusters of our own. Where Ray is installed with its dashboard, figures for Prometheus would be told to everybody: their ports know no token. Two of
the three cannot be turned off, only be given a number that is none, should a Ray start them all the same (`_bare`)."""

UNASKED = ("start_api_server", "start_log_monitor", "start_monitor")
"""What Ray's node starts beside a cluster, and nobody asks in one of our own: a dashboard that is left out, what follows the logs for a driver that wants none, and
what would add machines. Each is a process of Python that has to import; together they took 1.5 % of a core beside training."""


@contextlib.contextmanager
def connected(address: str | None = None, *, num_cpus: int | None = None) -> Iterator[None]:
    """Be connected to Ray. A connection that is there already is used and left open.

    Args:
        address: a cluster; None = `RAY_ADDRESS`, and where that is not set a cluster of our own, on 127.0.0.1, behind a token.
        num_cpus: CPUs of our own cluster; None = all.

    Raises:
        ConfigError: the cluster cannot be reached, or a token that is named is not there.
    """
    if ray.is_initialized():
        yield
        return
    if not address or address == "auto":
        # As Ray has it: "auto" is looked for on this machine only where no address is set.
        address = os.environ.get("RAY_ADDRESS") or address or "local"
    connect = _own_cluster(num_cpus) if address == "local" else _other_cluster(address)
    with connect:
        yield


def may_grow() -> bool:
    """Whether other machines may join the cluster this process is connected to: not one that it has started itself, for this machine alone."""
    here: Any = ray._private.worker._global_node
    return not here.is_head()


def connect_no_more() -> None:
    """Let no thread that is left behind start a cluster: Ray does so for whoever asks it anything after this process has taken leave of the one it had."""
    auto_init_hook.enable_auto_connect = False


@contextlib.contextmanager
def _other_cluster(address: str) -> Iterator[None]:
    check_kind(address)
    try:
        with _loopback() if _is_inward(address) else contextlib.nullcontext():
            ray.init(address, runtime_env={"env_vars": ENVIRONMENT}, log_to_driver=False, logging_level=logging.ERROR)
    except (AuthenticationError, ConnectionError, ValueError, RuntimeError) as problem:
        raise not_joined(address, problem) from None
    try:
        yield
    finally:
        ray.shutdown()


def _is_inward(address: str) -> bool:
    """Whether a cluster listens on the loopback interface alone. Ray looks for one at 127.0.0.1 at this machine's outer address."""
    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost") or not port.isdecimal():
        return False
    try:
        outer = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        socket.create_connection((outer, int(port)), timeout=1.0).close()
    except OSError:
        return True
    return False


@contextlib.contextmanager
def _own_cluster(num_cpus: int | None) -> Iterator[None]:
    # The socket paths below it have to fit into 107 characters.
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_short_folder()))
    with _reaped(folder), _environment({**ENVIRONMENT, **PRIVATE, **_token(folder)}), _loopback(), _bare():
        try:
            _start(num_cpus, folder)
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _start(num_cpus: int | None, folder: Path) -> None:
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=200_000_000,
            # Ray opens its own folder to every user; the one above it, with the token, stays ours.
            _temp_dir=str(folder / "r"),
        )
    except AuthenticationError as problem:
        raise not_started(problem) from None
    except Exception as problem:
        # Ray has no class of its own for it. What else there may be is a file that is refused, which its own error tells better, or our fault.
        if type(problem) is Exception or isinstance(problem, (ConnectionError, TimeoutError, RuntimeError)):
            raise not_up(problem, folder.parent) from None
        raise


@contextlib.contextmanager
def _reaped(folder: Path) -> Iterator[None]:
    """Have the cluster cleaned up even if this process is killed."""
    command = [sys.executable, "-I", "-S", reaper.__file__, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        process.communicate()


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Let a cluster that starts now listen on 127.0.0.1 alone.

    Ray has no argument for it (`_node_ip_address="127.0.0.1"` is turned into the outer address): it asks this constant, whose name speaks of
    Windows and macOS, whether machines may join, and binds to the loopback interface when they may not.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _bare() -> Iterator[None]:
    """Let a cluster that starts now do without what is `UNASKED`, for which `ray.init` has no argument: it is there two seconds earlier (two cores)."""
    before = {name: getattr(Node, name) for name in UNASKED if hasattr(Node, name)}
    for name in before:
        setattr(Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


def _start_nothing(machine: Any, **_: Any) -> None:
    machine._webui_url = None


@functools.cache
def _secret() -> str:
    """One token per process, because Ray reads it only once."""
    return secrets.token_hex(32)


def _token(folder: Path) -> dict[str, str]:
    """Whoever reaches a Ray cluster runs code on it: ours asks for a token, which only this user can read.

    Ray itself turns token authentication on for clusters of its own, unless the user has chosen a mode.
    """
    if any(os.environ.get(name) for name in AUTHENTICATION):
        if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
            logger.warning(
                "RAY_AUTH_MODE is disabled: whoever has an account on this machine runs code as you while this runs; unset it"
            )
        return {}
    path = folder / "token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(_secret())
    return {"RAY_AUTH_TOKEN_PATH": str(path)}


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables for the processes of a cluster; what the user set stays."""
    before = {name: os.environ.get(name) for name in (*variables, *AUTHENTICATION)}
    os.environ.update({name: value for name, value in variables.items() if name not in os.environ})
    try:
        yield
    finally:
        for name in (name for name, value in before.items() if value is None):
            os.environ.pop(name, None)


def _short_folder() -> str:
    chosen = tempfile.gettempdir()
    return chosen if len(chosen) <= 24 else "/tmp"
