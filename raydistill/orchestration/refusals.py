"""Why no Ray cluster was joined or started, in words that name the variable to mend.

What Ray says itself is a traceback inside a message, or advice for programs that call it, and an address it cannot use fails long after it was taken.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from raydistill.errors import ConfigError

VARIABLES = "RAY_AUTH_MODE, RAY_AUTH_TOKEN and RAY_AUTH_TOKEN_PATH"
TRACEBACK = "Traceback (most recent call last)"
LONGEST = 300


def check_kind(address: str) -> None:
    """Refuse an address that Ray does not take for a head's.

    Raises:
        ConfigError: it has a scheme.
    """
    if "://" in address:
        raise ConfigError(
            f"Ray cluster {address}: an address with a scheme",
            expected="HOST:PORT of a cluster's head; its port is 6379 unless it was started with another one",
            consequence="Ray would import the module that the scheme names; Ray Client (ray://) takes no campaign or evaluation",
            remedy="set RAY_ADDRESS to HOST:PORT, or unset it: raydistill then starts a cluster of its own. To a dashboard (http://) "
            "`raydistill submit` sends a campaign: name it in RAY_API_SERVER_ADDRESS",
        )


def not_joined(address: str, problem: Exception) -> ConfigError:
    """What Ray's refusal to join a cluster means."""
    return ConfigError(
        f"Ray cluster {address}: {_reason(problem)}",
        expected="a running cluster, and its token in RAY_AUTH_TOKEN or else in the file at RAY_AUTH_TOKEN_PATH",
        consequence="there would be no cluster to work on",
        remedy=f"check RAY_ADDRESS and the token (one in RAY_AUTH_TOKEN goes before the file; RAY_AUTH_MODE=disabled shows none); where that "
        f"cluster has ended, unset RAY_ADDRESS, {VARIABLES}: raydistill then starts one of its own",
    )


def not_started(problem: Exception) -> ConfigError:
    """What Ray's refusal of a token means for a cluster of our own."""
    return ConfigError(
        f"a Ray cluster on this machine: {_reason(problem)}",
        expected="a token in RAY_AUTH_TOKEN or in the file at RAY_AUTH_TOKEN_PATH, or none of these variables",
        consequence="there would be no cluster to work on",
        remedy=f"unset {VARIABLES}: raydistill then makes a token for this cluster alone",
    )


def not_up(problem: Exception, above: Path) -> ConfigError:
    """What it means that Ray's processes did not come up on this machine; `above` is the folder their files lie in."""
    return ConfigError(
        f"a Ray cluster on this machine did not start: {_reason(problem)}",
        expected=f"room for Ray's processes: memory, threads (ulimit -u), and a disk below {above} that can be written",
        consequence="there would be no cluster to work on",
        remedy="free memory and disk (df, free), raise the limits, or set RAY_ADDRESS to a cluster that runs; then the same command again",
    )


def _reason(problem: BaseException) -> str:
    """What happened, in Ray's words, on one line."""
    # Ray's "Failed to connect" says nothing; what it was raised from does.
    if isinstance(problem, ConnectionError) and problem.__cause__ is not None:
        problem = problem.__cause__
    # As text, an error about tokens has Ray's advice behind its message.
    said = str(getattr(problem, "message", problem)).strip()
    if TRACEBACK in said:
        # The traceback's last line says what happened; what follows its first sentence is that advice again.
        said = re.sub(r"^[\w.]+: ", "", said.splitlines()[-1]).split(". ")[0].rstrip(".")
    return textwrap.shorten(said, LONGEST, placeholder=" ...") or type(problem).__name__
