"""Where the workers of a trial meet to exchange tensors, and on which addresses they listen for each other.

torch asks for no token: whoever reaches these ports can disturb a trial. So none is opened but on the address that the cluster knows a machine by, which
on one machine alone is 127.0.0.1.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from datetime import timedelta
from typing import NamedTuple

import psutil
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

EXCHANGE_SECONDS = 86400.0
"""How long one may wait for another in an exchange: as long as a pass over the texts of a large graph takes of which one has more than the others. That one is gone Ray
notices itself, within seconds."""


class Meeting(NamedTuple):
    """Where the first worker keeps what the others need to reach each other.

    Attributes:
        host: its address.
        port: where it listens.
        descriptor: of the socket that does, in its process.
    """

    host: str
    port: int
    descriptor: int


def open_meeting(host: str) -> Meeting:
    """Listen on one address of this machine.

    torch itself binds to every interface, whatever it is told its address is. It takes over a socket that is bound already.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.create_server((host, 0), family=family)
    return Meeting(host, server.getsockname()[1], server.detach())


def store_of(meeting: Meeting, rank: int, size: int, seconds: float) -> Store:
    """The store that all workers share, when all of them are there.

    Args:
        meeting: where.
        rank: of this worker. The first one has to be in the process that opened the meeting; it may be called there once.
        size: number of workers.
        seconds: how long each may wait for what another one has to say.

    Raises:
        torch.distributed.DistError: somebody does not come.
    """
    first = rank == 0
    store: Store = dist.TCPStore(  # type: ignore[attr-defined]
        meeting.host,
        meeting.port,
        size,
        is_master=first,
        timeout=timedelta(seconds=seconds),
        master_listen_fd=meeting.descriptor if first else None,
    )
    return store


def join(meeting: Meeting, rank: int, size: int, group: str, seconds: float, host: str) -> None:
    """Make this process one of the workers that exchange tensors; the first arguments as above.

    Args:
        meeting: where.
        rank: of this worker.
        size: number of workers.
        group: "gloo" or "nccl".
        seconds: how long each may wait for the others to come; once they have, for EXCHANGE_SECONDS.
        host: address of this worker's machine.
    """
    _keep_to(host)
    # A worker that waits for one that is gone ends with an error, as Ray has it where it opens the group.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    store = store_of(meeting, rank, size, seconds)
    # Words are exchanged from processor to processor where tensors are not.
    devices = {"nccl": "cpu:gloo,cuda:nccl"}.get(group, group)
    timeout = timedelta(seconds=EXCHANGE_SECONDS)
    dist.init_process_group(devices, store=store, rank=rank, world_size=size, timeout=timeout)


def _keep_to(host: str) -> None:
    """Let this process exchange tensors through the interface of one address alone; what the user has chosen stays.

    Gloo listens on the address that the machine's name stands for, which may be any; NCCL on every interface but the loopback one, where there are others.
    """
    interfaces = [
        name for name, addresses in psutil.net_if_addrs().items() if host in (one.address for one in addresses)
    ]
    if not interfaces:
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", interfaces[0])
    if ipaddress.ip_address(host).is_loopback:
        # Elsewhere it may have several, and faster ones than that of Ray's address.
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interfaces[0]}")
