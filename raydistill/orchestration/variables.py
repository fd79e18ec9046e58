"""Environment variables for every process of a campaign, such as the credentials of a bucket, on a cluster whose processes do not inherit them.

They go with what is sent to a process, and are set where it arrives. Not by Ray's `runtime_env`: Ray writes all of that into a log of every machine
(runtime_env_agent.log), which every user of the machine may read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from raydistill.errors import ConfigError


class Variables:
    """Variables that are set in whatever process they are unpickled in.

    Args:
        values: by name. They are shown nowhere.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def set(self) -> None:
        """Set them in this process."""
        os.environ.update(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Variables) and self._values == other._values

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return f"Variables({', '.join(sorted(self._values))})"

    def __reduce__(self) -> tuple[object, ...]:
        return _arrived, (self._values,)


def _arrived(values: dict[str, str]) -> Variables:
    variables = Variables(values)
    variables.set()
    return variables


def variables(given: Sequence[str]) -> dict[str, str]:
    """Variables for the processes of a job, or of a campaign, from `NAME`, which takes the value it has here, and `NAME=VALUE`.

    Raises:
        ConfigError: one is not set here, or is no name of a variable.
    """
    chosen = {}
    for one in given:
        name, mark, value = one.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or (not mark and name not in os.environ):
            raise ConfigError(
                f"--env {one if not mark else name}",
                expected="NAME of a variable that is set here, or NAME=VALUE",
                consequence="the processes of the cluster would run without it",
                remedy="set it, give a value, or leave it out",
            )
        chosen[name] = value if mark else os.environ[name]
    return chosen
