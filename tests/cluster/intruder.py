"""Somebody without the token, at every port of a cluster: web pages, the calls of Ray's own processes, Ray Client, and raw bytes."""

from __future__ import annotations

import contextlib
import functools
import http.client
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

Address = tuple[str, int]
REFUSED = (400, 401, 403, 404)
LOOPBACK = ("127.0.0.1", "::1")
UNTOLD = ("UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE")
"""How a remote call may end: refused, or there is no such service there, or no service at all."""
FRAME = b"\x00\x00"
"""How the greeting of a server of remote calls begins, which says no more than that it is one."""
WRONG = "0" * 64
PATIENCE = 30
"""Seconds for an answer: the machine may be busy with other tests."""
PAGES = (
    "/",
    "/api/version",
    "/api/jobs/",
    "/api/actors/kill?actor_id=0",
    "/api/v0/nodes",
    "/nodes?view=summary",
    "/logical/actors",
    "/metrics",
    "/logs/",
    "/api/local_raylet_healthz",
    "/api/gcs_healthz",
    "/api/authentication_mode",
    "/static/../../../../../../etc/passwd",
    "/worker/traceback?pid=1",
)
SAID_TO_ALL = (b"success", b'{"authentication_mode": "token"}')
"""That a process is well, and that it wants a token."""
HARMLESS = re.compile(
    r"\'(/ray\.rpc[\w.]*/(?:Get|List|Check|Is|Num|KVList|KVGet|ClusterInfo|InternalKVKeys|InternalKVGet)\w*)\'"
)
CLIENT = "/ray.rpc.RayletDataStreamer/Datapath"
"""With which Ray Client connects."""


def listening(processes: Iterable[int]) -> set[Address]:
    """Every address on which one of these processes takes connections over TCP."""
    found = set()
    for pid in processes:
        try:
            connections = psutil.Process(pid).net_connections("tcp")
        except psutil.NoSuchProcess:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                found.add((connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port))
    return found


def pages(address: Address, token: str | None) -> dict[str, tuple[int, bytes]]:
    """Status and content of what a port answers to requests for web pages; empty where it speaks no HTTP."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    answers = {}
    for page in PAGES:
        connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
        try:
            connection.request("GET", page, headers=headers)
            answer = connection.getresponse()
            answers[page] = answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return answers
        finally:
            connection.close()
    return answers


@functools.cache
def harmless() -> tuple[str, ...]:
    """The remote calls of all services of the installed Ray that only ask."""
    import ray

    texts = (path.read_text() for path in (Path(ray.__file__).parent / "core/generated").glob("*_pb2_grpc.py"))
    return tuple(sorted({name for text in texts for name in HARMLESS.findall(text)}))


def calls(address: Address, token: str | None) -> dict[str, str]:
    """What a port answers to the remote calls of Ray's own processes, with empty requests, and to a Ray Client that connects."""
    import grpc

    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    answers = {}
    with grpc.insecure_channel(f"{address[0]}:{address[1]}") as channel:
        for name in harmless():
            answers[name] = _code(lambda name=name: channel.unary_unary(name)(b"", timeout=PATIENCE, metadata=metadata))
        client = [*metadata, ("client_id", "0" * 32), ("reconnecting", "False")]
        stream = channel.stream_stream(CLIENT)
        answers[CLIENT] = _code(lambda: next(stream(_first_words(), timeout=PATIENCE, metadata=client)))
    return answers


def raw(address: Address) -> bytes:
    """What a port says to somebody who connects and speaks no language at all; nothing where its process has ended meanwhile."""
    said = b""
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=PATIENCE) as connection:
        connection.settimeout(1.0)
        connection.sendall(b"\x80\x04hello\r\n\r\n")
        while piece := connection.recv(4096):
            said += piece
    return said


def front_page() -> tuple[bytes, ...]:
    """The page in which the dashboard asks for the token: a file of Ray's package, the same in every cluster."""
    import ray

    return tuple(
        path.read_bytes() for path in (Path(ray.__file__).parent / "dashboard/client/build").glob("index.html")
    )


def breaches(addresses: Iterable[Address]) -> list[str]:
    """What somebody without a token, or with a wrong one, is told at these addresses that is no refusal."""
    found = []
    for address in sorted(addresses):
        place = f"port {address[1]}"
        if address[0] not in LOOPBACK:
            found.append(f"{place} listens on {address[0]}")
        web = False
        for token in (None, WRONG):
            answers = pages(address, token)
            web = web or bool(answers)
            found += [
                f"{place}: {page} is answered with {content[:80]!r}"
                for page, (code, content) in answers.items()
                if code not in REFUSED and content not in SAID_TO_ALL and content not in front_page()
            ]
            if not web:
                told = calls(address, token).items()
                found += [f"{place}: {name} is answered with {code}" for name, code in told if code not in UNTOLD]
        said = raw(address)
        if said and not said.startswith(FRAME) and not said.startswith((b"HTTP/1.0 4", b"HTTP/1.1 4")):
            found.append(f"{place} says {said[:80]!r}")
    return found


def _first_words() -> Iterator[bytes]:
    from ray.core.generated import ray_client_pb2

    request: Any = ray_client_pb2.DataRequest(req_id=1, init=ray_client_pb2.InitRequest())
    yield request.SerializeToString()


def _code(call: Any) -> str:
    import grpc

    try:
        call()
    except grpc.RpcError as problem:
        return str(problem.code().name)
    except StopIteration:
        return "nothing"
    return "OK"
