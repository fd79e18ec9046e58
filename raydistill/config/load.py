"""Strict YAML in and out: unknown keys are refused with a suggestion, nothing in a file runs code, the resolved file can be saved."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from raydistill.config.schema import CampaignConfig
from raydistill.errors import ConfigError


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> CampaignConfig:
    """Read a campaign from YAML and apply `a.b=value` overrides.

    Raises:
        ConfigError: the file is missing, is not YAML, names an unknown key, or holds a value out of range.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", expected="a campaign file in YAML", remedy="see jobs/configs/ for examples") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{path}: {problem}", expected="a readable UTF-8 file") from None
    except yaml.YAMLError as problem:
        raise ConfigError(f"{path}: not valid YAML: {problem}", expected="plain YAML without tags", remedy="mend the line named above") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds {type(content).__name__}", expected="a mapping with the keys data, encoder, grades, ...")
    for override in overrides:
        _apply(content, override)
    return parse_config(content, where=str(path))


def parse_config(content: dict[str, Any], where: str = "config") -> CampaignConfig:
    """Validate a mapping as a campaign.

    Raises:
        ConfigError: naming every offending key with its path, the bound or the allowed values, and a suggestion for misspelt keys.
    """
    try:
        return CampaignConfig.model_validate(content)
    except ValidationError as problem:
        lines = _describe(problem)
        raise ConfigError(
            f"{where}: {len(lines)} problem{'s' if len(lines) > 1 else ''} in the configuration\n  - " + "\n  - ".join(lines),
            consequence="the campaign would run with settings nobody asked for, so nothing was started",
            remedy="mend the keys named above; docs/configuration.md lists all of them",
        ) from None


def dump_config(config: BaseModel) -> str:
    """The resolved configuration as YAML, every default spelt out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def fingerprint(config: BaseModel) -> str:
    """SHA-256 of the resolved configuration, independent of the order of keys and of what was left to defaults."""
    return hashlib.sha256(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def _apply(content: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"--set {override!r}", expected="--set section.key=value", remedy="for example --set training.epochs=5")
    *parents, last = path.strip().split(".")
    place: Any = content
    for parent in parents:
        place = _child(place, parent, override)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override!r}: the value is not YAML", expected="a number, word, list or mapping") from None
    if isinstance(place, list):
        place[_position(place, last, override)] = value
    else:
        place[last] = value


def _child(place: Any, name: str, override: str) -> Any:
    if isinstance(place, list):
        return place[_position(place, name, override)]
    if place.get(name) is None:
        place[name] = {}
    if not isinstance(place[name], (dict, list)):
        raise ConfigError(f"--set {override!r}: {name} is a plain value", expected="a section before the dot")
    return place[name]


def _position(place: list[Any], name: str, override: str) -> int:
    if not name.isdigit() or int(name) >= len(place):
        raise ConfigError(f"--set {override!r}: {name!r} is no position in a list of {len(place)}", expected=f"0 to {len(place) - 1}")
    return int(name)


def _describe(problem: ValidationError) -> list[str]:
    """One line per offending place; the many complaints of a union about one place become one line."""
    by_place: dict[str, list[str]] = {}
    for error in problem.errors(include_url=False):
        place = _place(error["loc"])
        by_place.setdefault(place, []).append(_message(error, place))
    lines = [f"{place or 'config'}: {' or '.join(dict.fromkeys(messages))}" for place, messages in by_place.items()]
    return [line for line in lines if not any(other != line and other.split(": ")[0].startswith(line.split(": ")[0] + ".") for other in lines)]


def _place(location: tuple[int | str, ...]) -> str:
    """`loc` without the names pydantic gives to union members."""
    members = ("Choice", "Uniform", "LogUniform", "float", "int", "literal", "tuple", "function", "constrained", "none", "lax", "str")
    return ".".join(str(part) for part in location if isinstance(part, int) or not part.startswith(members) or part in ("init",))


def _message(error: Any, place: str) -> str:
    received = error.get("input")
    if error["type"] == "extra_forbidden":
        key = place.rsplit(".", 1)[-1]
        close = difflib.get_close_matches(key, _all_keys(), n=1)
        return f"unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    text = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "union_tag_invalid":
        context = error["ctx"]
        return f"unknown method {context['tag']!r}; expected one of {context['expected_tags']}"
    if error["type"] == "missing":
        return "this key is required"
    return f"{text[0].lower()}{text[1:]}" + ("" if isinstance(received, (dict, list)) else f", received {received!r}")


def _all_keys() -> list[str]:
    """Every key of every section, for suggestions."""
    keys: set[str] = set()
    seen: set[str] = set()

    def visit(schema: dict[str, Any]) -> None:
        keys.update(schema.get("properties", {}))

    schema = CampaignConfig.model_json_schema()
    visit(schema)
    for name, definition in schema.get("$defs", {}).items():
        if name not in seen:
            seen.add(name)
            visit(definition)
    return sorted(keys)
