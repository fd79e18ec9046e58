"""`--set a.b=value`: one value of a campaign replaced from the command line, before anything is validated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raydistill.errors import ConfigError


def apply_override(content: dict[str, Any], override: str, parse: Callable[[str, str], Any]) -> None:
    """Replace one value in `content`, making sections on the way that are not there yet.

    Args:
        content: the campaign as read, changed in place.
        override: `section.key=value`; a position counts from 0, as in `grades.0.layers=3`.
        parse: reads the value, given its text and a name for messages.

    Raises:
        ConfigError: there is no equals sign, or the path leads through a plain value or past the end of a list.
    """
    path, equals, text = override.partition("=")
    *parents, last = path.strip().split(".")
    if not equals or not all([*parents, last]):
        raise ConfigError(
            f"--set {override}",
            expected="--set section.key=value",
            consequence="nothing would be set",
            remedy="for example --set training.epochs=5",
        )
    place: Any = content
    for parent in parents:
        place = _child(place, parent, override)
    value = parse(text, f"--set {override}")
    if isinstance(place, list):
        place[_position(place, last, override)] = value
    else:
        place[last] = value


def _child(place: Any, name: str, override: str) -> Any:
    if isinstance(place, list):
        child = place[_position(place, name, override)]
    else:
        if place.get(name) is None:
            place[name] = {}
        child = place[name]
    if not isinstance(child, (dict, list)):
        raise ConfigError(
            f"--set {override}: {name} is the plain value {child!r}",
            expected="a section or list before each dot",
            remedy="leave out what follows it, or set the whole section",
        )
    return child


def _position(place: list[Any], name: str, override: str) -> int:
    if not name.isdecimal() or int(name) >= len(place):
        raise ConfigError(
            f"--set {override}: {name!r} is no position in a list of {len(place)}",
            expected=f"0 to {len(place) - 1}" if place else "a list that is not empty",
            remedy="positions count from 0, as in grades.0.layers=3",
        )
    return int(name)
