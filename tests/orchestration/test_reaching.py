"""Which cluster is meant, and what it answers, against small servers in this process."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from raydistill.errors import ConfigError
from raydistill.orchestration.reaching import api_address, authorization, try_address

NAMES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def _unnamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster and no token of whoever runs the tests."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_address_that_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's client prefers RAY_ADDRESS: a job for the cluster that was named would run on another one."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://other:8265")
    monkeypatch.setenv("RAY_ADDRESS", "http://third:8265")
    assert api_address("http://here:8265/") == "http://here:8265"
    assert api_address(None) == "http://other:8265"
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
    assert api_address(None) == "http://third:8265"


def test_unnamed_cluster_is_refused() -> None:
    """A job must not go to whatever cluster happens to run on this machine."""
    with pytest.raises(ConfigError, match="no cluster is named"):
        api_address(None)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:6379", "ray://head:10001", "auto", "os://x", "http://", "local", "http://head:port"]
)
def test_address_of_another_kind_is_refused(address: str) -> None:
    """Ray imports the module that an unknown scheme names, and asks a port without a scheme for the address of a dashboard."""
    with pytest.raises(ConfigError, match="no address of a job API"):
        api_address(address)


def test_token_comes_from_the_environment_then_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another order than Ray's own, and client and driver show different tokens."""
    assert authorization() == {}
    path = tmp_path / "token"
    path.write_text("from-file\n")
    path.chmod(0o600)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    assert authorization() == {"Authorization": "Bearer from-file"}
    monkeypatch.setenv("RAY_AUTH_TOKEN", "direct")
    assert authorization() == {"Authorization": "Bearer direct"}
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert authorization() == {}


def test_usual_token_is_shown_only_where_tokens_are_wanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A token that was made for one cluster, sent to every other one."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("usual")
    assert authorization() == {}
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert authorization() == {"Authorization": "Bearer usual"}


def test_missing_token_file_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mistyped path would end as a refusal without a reason."""
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="absent: No such file"):
        authorization()


def test_token_file_that_others_can_read_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray writes its own token file readable for everybody."""
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    with caplog.at_level(logging.WARNING):
        authorization()
    assert "can be read by other users" in caplog.text
    assert "secret" not in caplog.text


Server = Callable[[int, bytes], str]


@pytest.fixture
def server() -> Iterator[Server]:
    """Start a server that gives one answer: `server(status, body)` is its address."""
    started: list[HTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *values: object) -> None:
                return

        started.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=started[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{started[-1].server_port}"

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


def test_job_api_is_known_by_its_version(server: Server) -> None:
    """The one address that is right must not be refused."""
    try_address(server(200, json.dumps({"ray_version": "2.60.0"}).encode()), {})


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"", "refuses requests without a token"),
        (404, b"", "is no job API: HTTP 404"),
        (302, b"", "is no job API: HTTP 302"),
        (200, b"<html>", "is no job API: an answer that is not JSON"),
        (200, b"[]", "is no job API: an answer without a Ray version"),
    ],
)
def test_other_answers_are_told_apart(server: Server, status: int, body: bytes, said: str) -> None:
    """A missing token, another service and a redirection (which would take the token along) need different remedies."""
    with pytest.raises(ConfigError, match=said):
        try_address(server(status, body), {})


def test_port_of_another_language_is_told() -> None:
    """Ray's own port speaks gRPC, whose first bytes are no line of HTTP: a traceback, for the address that is mistaken most often."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"\x00\x00\x18\x04\x00\x00\x00\x00\x00\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ConfigError, match="6379 and 10001 are Ray's own"):
            try_address(f"http://127.0.0.1:{listening.getsockname()[1]}", {})


def test_tunnel_to_nobody_is_no_other_service() -> None:
    """A port that is forwarded to where nobody listens takes a connection and closes it: what to check is the cluster, not the port's number."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=lambda: listening.accept()[0].close(), daemon=True).start()
        with pytest.raises(ConfigError, match="no answer from"):
            try_address(f"http://127.0.0.1:{listening.getsockname()[1]}", {})


def test_wrong_token_is_told_from_a_missing_one(server: Server) -> None:
    """Whoever gave a token looks for a mistake elsewhere when told that there is none."""
    with pytest.raises(ConfigError, match="refuses this token"):
        try_address(server(403, b""), {"Authorization": "Bearer x"})


def test_address_where_nobody_answers_is_refused() -> None:
    """A traceback of the HTTP library for a cluster that was stopped yesterday."""
    with pytest.raises(ConfigError, match=r"no answer from http://127\.0\.0\.1:1: "):
        try_address("http://127.0.0.1:1", {})


def test_token_on_an_open_line_is_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that passes a network unencrypted is everybody's on the way."""
    monkeypatch.setattr("raydistill.orchestration.reaching.PATIENCE_SECONDS", 0.1)
    with caplog.at_level(logging.WARNING), pytest.raises(ConfigError, match="no answer"):
        try_address("http://192.0.2.1:8265", {"Authorization": "Bearer secret"})
    assert "unencrypted" in caplog.text
    assert "secret" not in caplog.text
