"""Asking actors, the coordinator above all: answers, and errors as they were raised."""

from __future__ import annotations

from typing import Any, cast

import ray
from ray.exceptions import RayTaskError

from raydistill.errors import RayDistillError


def ask(reference: Any) -> Any:
    """The answer to a message; our own errors come out as they went in, not wrapped by Ray.

    Raises:
        RayDistillError: whatever the other side raised.
    """
    try:
        return ray.get(reference)
    except RayTaskError as problem:
        raise unwrapped(problem) from None


def unwrapped(problem: BaseException) -> BaseException:
    """The error of ours behind an error of Ray's, if there is one."""
    seen: BaseException | None = problem
    while seen is not None:
        if isinstance(seen, RayDistillError):
            # Ray raises a class derived from both its own and ours; only ours is for the reader.
            own = next(kind for kind in type(seen).__mro__ if kind.__module__ == "raydistill.errors")
            fields = {name: getattr(seen, name) for name in ("expected", "consequence", "remedy")}
            return cast(RayDistillError, own(seen.received, **fields)) if type(seen) is not own else seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return problem
