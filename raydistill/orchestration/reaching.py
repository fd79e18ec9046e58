"""Which cluster's job API is meant, with which token, and whether it answers: settled before Ray's own client is asked.

Ray's client goes to `RAY_ADDRESS` even when another address is given, waits for ever for a machine that does not answer, takes any module's name for
an address and imports it, and sends no token unless `RAY_AUTH_MODE` is set.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import stat
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raydistill.errors import ConfigError

logger = logging.getLogger(__name__)
ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that name a cluster where no address is given, in the order in which they are asked."""
PATIENCE_SECONDS = 15.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the token would go to a machine that nobody named."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """Leave the answer as it is."""
        return


def api_address(given: str | None) -> str:
    """The address of the job API that is meant, without a slash at its end.

    Args:
        given: what the user named; None = `RAY_API_SERVER_ADDRESS`, or else `RAY_ADDRESS`.

    Raises:
        ConfigError: no cluster is named, or what is named cannot be a job API.
    """
    named = [("the address", given), *((name, os.environ.get(name)) for name in ADDRESSES)]
    source, address = next(((source, address) for source, address in named if address), ("", None))
    if address is None:
        raise ConfigError(
            "no cluster is named",
            expected="--address http://HOST:8265, or that address in RAY_API_SERVER_ADDRESS",
            consequence="the job would go to whatever cluster happens to run on this machine",
            remedy="name the dashboard's address; `cluster/local.sh start` starts a cluster here and prints it",
        )
    if not _is_web_address(address):
        raise ConfigError(
            f"{source} {address!r} is no address of a job API",
            expected="http://HOST:8265 or https://HOST: the address of the cluster's dashboard",
            consequence="Ray's own port, 6379, speaks another language",
            remedy="give --address, or set RAY_API_SERVER_ADDRESS",
        )
    return address.rstrip("/")


def _is_web_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
        # Whether the port is a number is found out when somebody asks for it.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def authorization() -> dict[str, str]:
    """The header that carries the token; empty where there is none.

    The token is that of `RAY_AUTH_TOKEN`, of the file at `RAY_AUTH_TOKEN_PATH`, or, where `RAY_AUTH_MODE=token`, of `~/.ray/auth_token`: a token that
    was made for one cluster is not shown to another one unasked.

    Raises:
        ConfigError: the file cannot be read.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode == "disabled":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    usual = Path.home() / ".ray" / "auth_token"
    if not token and named:
        token = _read_token(Path(named))
    elif not token and mode == "token" and usual.is_file():
        token = _read_token(usual)
    return {"Authorization": f"Bearer {token}"} if token else {}


def try_address(address: str, headers: dict[str, str]) -> None:
    """Ask for the version, which needs the token and changes nothing.

    Raises:
        ConfigError: nothing answers, what answers is no job API, or the token is missing or wrong.
    """
    if headers and address.startswith("http:") and urlsplit(address).hostname not in LOOPBACK:
        logger.warning(
            "the token goes to %s unencrypted; an SSH tunnel (ssh -L 8265:127.0.0.1:8265) or https hides it", address
        )
    request = urllib.request.Request(f"{address}/api/version", headers=headers)
    try:
        with urllib.request.build_opener(NoRedirect()).open(request, timeout=PATIENCE_SECONDS) as answer:
            content = json.load(answer)
    except urllib.error.HTTPError as problem:
        raise refusal(address, problem.code, bool(headers)) from None
    except ValueError:
        raise _other_service(address, "an answer that is not JSON") from None
    except OSError as problem:
        raise ConfigError(
            f"no answer from {address}: {getattr(problem, 'reason', None) or problem}",
            expected="a running cluster with a dashboard (`ray start --head`, with Ray installed as ray[default])",
            remedy="check the address, and that the cluster runs; from elsewhere its port needs a tunnel: ssh -L 8265:127.0.0.1:8265 HOST",
        ) from None
    except http.client.HTTPException:
        # After those of the connection: one that is closed without a word, as by a tunnel to nobody, is both.
        raise _other_service(address, "an answer in another language than HTTP") from None
    if not isinstance(content, dict) or "ray_version" not in content:
        raise _other_service(address, "an answer without a Ray version")


def refusal(address: str, code: int, with_token: bool) -> ConfigError:
    """What an HTTP status of refusal means."""
    if code in (401, 403):
        return ConfigError(
            f"{address} refuses {'this token' if with_token else 'requests without a token'} (HTTP {code})",
            expected="the token the cluster was started with, in RAY_AUTH_TOKEN or in a file at RAY_AUTH_TOKEN_PATH",
            consequence="nothing was submitted or changed",
            remedy="set one of them to that cluster's token; `cluster/local.sh status` names the file of a local one",
        )
    return _other_service(address, f"HTTP {code}")


def _other_service(address: str, received: str) -> ConfigError:
    return ConfigError(
        f"{address} answers, but is no job API: {received}",
        expected="the dashboard of a Ray cluster, with Ray installed as ray[default]",
        remedy="check the port: the dashboard's is 8265 unless told otherwise, 6379 and 10001 are Ray's own",
    )


def _read_token(path: Path) -> str:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            logger.warning("the token in %s can be read by other users; chmod 600 it", path)
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(
            f"token file {path}: {getattr(problem, 'strerror', None) or problem}",
            expected="a readable file that holds the cluster's token and nothing else",
            consequence="the cluster would refuse every request",
            remedy="mend RAY_AUTH_TOKEN_PATH, or set RAY_AUTH_TOKEN",
        ) from None
