"""Where the workers of a trial meet, without Ray: on which addresses they listen, and that they find each other there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from ray.exceptions import GetTimeoutError

from raydistill.orchestration import backend, meeting
from raydistill.orchestration.meeting import Meeting, open_meeting, store_of

HERE = "127.0.0.1"
STORE = f"""
import sys
from raydistill.orchestration.meeting import Meeting, store_of

store = store_of(Meeting("{HERE}", int(sys.argv[1]), -1), 1, 2, 60)
store.set("second", "came")
print(store.get("first").decode())
"""
EXCHANGE = f"""
import sys
import psutil
import torch
import torch.distributed as dist
from raydistill.orchestration.meeting import Meeting, join, open_meeting

rank, port = int(sys.argv[1]), int(sys.argv[2])
meeting = Meeting("{HERE}", port, -1) if rank else open_meeting("{HERE}")
print(meeting.port, flush=True)
join(meeting, rank, 2, "gloo", 60, "{HERE}")
total = torch.tensor([rank + 1])
dist.all_reduce(total)
found = [one.laddr.ip for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_LISTEN]
dist.barrier()
print(int(total), *found)
dist.destroy_process_group()
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def listening() -> set[tuple[str, int]]:
    """Where this process takes connections."""
    found = psutil.Process().net_connections("tcp")
    return {(one.laddr.ip, one.laddr.port) for one in found if one.status == psutil.CONN_LISTEN}


def test_store_of_the_workers_listens_on_the_address_it_was_given_alone() -> None:
    """torch's own binds to every interface, and asks for no token: anybody on the network could rewrite what workers tell each other."""
    before = listening()
    opened = open_meeting(HERE)
    with start(STORE, opened.port) as second:
        store = store_of(opened, 0, 2, 60)
        store.set("first", "here")
        assert store.get("second") == b"came"
        assert listening() - before == {(HERE, opened.port)}
        assert second.stdout is not None
        assert second.stdout.read() == "here\n"
    del store
    assert listening() == before, "a worker that goes on to its next run keeps the port of the one before"


def test_workers_exchange_tensors_through_the_address_of_their_machine_alone() -> None:
    """Gloo listens where the machine's name points to, which on most machines is the address of the network."""
    with start(EXCHANGE, 0, 0) as first:
        assert first.stdout is not None
        port = int(first.stdout.readline())
        with start(EXCHANGE, 1, port) as second:
            assert second.stdout is not None
            told = [first.stdout.read().split(), second.stdout.read().split()[1:]]
    assert [one[0] for one in told] == ["3", "3"]
    # The first one's are the store and Gloo's, the second one's Gloo's.
    assert [len(one) > least for one, least in zip(told, (2, 1), strict=True)] == [True, True]
    assert {address.removeprefix("::ffff:") for one in told for address in one[1:]} == {HERE}


@pytest.mark.parametrize(
    ("host", "kept"),
    [
        ("127.0.0.1", {"GLOO_SOCKET_IFNAME": "lo0", "NCCL_SOCKET_IFNAME": "=lo0"}),
        ("10.1.2.3", {"GLOO_SOCKET_IFNAME": "en1"}),
        ("10.9.9.9", {}),
    ],
)
def test_tensors_go_through_the_interface_of_the_address(
    monkeypatch: pytest.MonkeyPatch, host: str, kept: dict[str, str]
) -> None:
    """Where this machine's name stands for 127.0.0.1, Gloo would be quiet without it; NCCL never is, and is kept off faster interfaces nowhere else."""
    interfaces = {"en0": ["10.1.2.30"], "lo0": ["::1", "127.0.0.1"], "en1": ["10.1.2.3"]}
    addresses = {name: [SimpleNamespace(address=one) for one in found] for name, found in interfaces.items()}
    monkeypatch.setattr(meeting.psutil, "net_if_addrs", lambda: addresses)
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    for name in names:
        monkeypatch.setenv(name, "chosen")
    meeting._keep_to(host)
    assert [os.environ[name] for name in names] == ["chosen"] * 2, "what the user has set stays"
    for name in names:
        monkeypatch.delenv(name)
    meeting._keep_to(host)
    assert {name: os.environ[name] for name in names if name in os.environ} == kept


class FakeGroup:
    """Workers that are called here, one after another."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def execute(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        return [function(*arguments) for _ in range(self.size)]

    def execute_single(self, rank: int, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    execute_single_async = execute_single
    execute_async = execute


@pytest.mark.parametrize(("group", "devices"), [("gloo", "gloo"), ("nccl", "cpu:gloo,cuda:nccl")])
def test_words_go_between_processors_and_an_exchange_may_take_long(
    monkeypatch: pytest.MonkeyPatch, group: str, devices: str
) -> None:
    """A GPU that is waited for at every word; or a trial that ends because one worker computes what a teacher says for an hour, and another one is done."""
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(meeting, "store_of", lambda *told: made.append(told))
    monkeypatch.setattr(meeting, "_keep_to", lambda host: None)
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    monkeypatch.setattr(meeting.dist, "init_process_group", lambda kind, **told: made.append((kind, told["timeout"])))
    here = Meeting("10.1.2.3", 4, 5)
    meeting.join(here, 0, 2, group, 7.0, "10.1.2.3")
    assert made == [(here, 0, 2, 7.0), (devices, timedelta(days=1))]


@pytest.mark.parametrize("size", [1, 2])
def test_workers_meet_where_there_are_several_of_them(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A single one would open ports that nobody needs; of two, each would train on its own half."""
    here, opened, joined = Meeting("10.1.2.3", 4, 5), [], []
    monkeypatch.setattr(meeting, "open_meeting", lambda host: opened.append(host) or here)
    monkeypatch.setattr(meeting, "join", lambda *arguments: joined.append(arguments))
    monkeypatch.setattr(backend.ray, "get", lambda answers: answers)
    monkeypatch.setattr(backend.ray.util, "get_node_ip_address", lambda: "10.1.2.3")
    for name in ("_tell_torch", "take_sigterm_as_notice"):
        monkeypatch.setattr(backend, name, lambda: None)
    config = backend.NoticingConfig("gloo", timeout_s=7)
    backend.NoticingBackend().on_start(FakeGroup(size), config)
    assert opened == ["10.1.2.3"] * (size - 1)
    assert joined == [(here, rank, 2, "gloo", 7, "10.1.2.3") for rank in range(2) if size == 2]


@pytest.mark.parametrize("size", [1, 2])
def test_workers_leave_each_other_as_those_of_ray_do(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A process group that stays for the next run in the same process; GPUs that workers of one machine cannot reach each other on."""
    from ray.train.torch import config as of_ray

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(of_ray, "_shutdown_torch", lambda **options: asked.append(options))
    monkeypatch.setattr(backend.ray, "get", lambda answers, timeout: answers)
    backend.NoticingBackend().on_shutdown(FakeGroup(size), backend.NoticingConfig("gloo"))
    assert asked == [{"destroy_process_group": size > 1}] * size
    assert backend.NoticingBackend.share_cuda_visible_devices == of_ray._TorchBackend.share_cuda_visible_devices
    config = of_ray.TorchConfig()
    assert backend.NoticingConfig("gloo").framework == config.framework
    assert backend.NoticingConfig("gloo").timeout_s == config.timeout_s


def test_workers_that_do_not_leave_are_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A trial that waits for a worker which hangs, or fails at its end because of one."""

    def late(answers: Any, timeout: float) -> Any:
        raise GetTimeoutError

    monkeypatch.setattr(backend, "_leave", lambda shared: None)
    monkeypatch.setattr(backend.ray, "get", late)
    backend.NoticingBackend().on_shutdown(FakeGroup(2), backend.NoticingConfig("gloo"))
    assert "workers did not leave each other within 30 s" in caplog.text
