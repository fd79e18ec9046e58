"""Strict YAML in and out: nothing in a file runs code, no key is given twice, the resolved file can be saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from raydistill.config.complaints import complaints
from raydistill.config.overrides import apply_override
from raydistill.config.schema import CampaignConfig
from raydistill.errors import ConfigError


class StrictLoader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader, which also refuses a key given twice; the safe loader silently keeps the last one."""

    def construct_mapping(self, mapping: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping after looking at its keys."""
        seen: set[tuple[str, str]] = set()
        for key, _ in mapping.value:
            name = (key.tag, str(key.value))
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(name)
        content: dict[Hashable, Any] = super().construct_mapping(mapping, deep)
        return content


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> CampaignConfig:
    """Read a campaign from YAML and apply `a.b=value` overrides.

    Raises:
        ConfigError: the file is missing, is not YAML, names an unknown key, or holds a value out of range.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file",
            expected="a campaign file in YAML",
            consequence="there would be nothing to run",
            remedy="check the path; jobs/configs/ has examples",
        ) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(
            f"{path}: {problem}",
            expected="a readable UTF-8 file",
            consequence="there would be nothing to run",
            remedy="give a campaign file, saved as UTF-8, that this user may read",
        ) from None
    return config_of(text, str(path), overrides)


def config_of(text: str, where: str, overrides: Sequence[str] = ()) -> CampaignConfig:
    """A campaign from the text of its file; `where` names the file in complaints.

    Raises:
        ConfigError: as `load_config`.
    """
    content = parse_yaml(text, where=where)
    if not isinstance(content, dict):
        received = "nothing" if content is None else f"a {type(content).__name__}"
        raise ConfigError(
            f"{where}: holds {received}",
            expected="a mapping with the keys data, encoder, grades, ...",
            consequence="there would be nothing to run",
            remedy="write one section per key; jobs/configs/ has examples",
        )
    for override in overrides:
        apply_override(content, override, parse_yaml)
    return parse_config(content, where=where)


def parse_yaml(text: str, where: str) -> Any:
    """Read one YAML document without tags and without repeated keys.

    Raises:
        ConfigError: naming the line.
    """
    try:
        return yaml.load(text, StrictLoader)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        reason = str(getattr(problem, "problem", None) or problem)
    except RecursionError:
        line, reason = "", "it is nested too deeply"
    raise ConfigError(
        f"{where}{line}: not valid YAML: {reason}",
        expected="plain YAML, every key once and no tags (`!...`)",
        consequence="parts of the file would be ignored, or run as code",
        remedy="mend the line named above",
    )


def parse_config(content: dict[str, Any], where: str = "config") -> CampaignConfig:
    """Validate a mapping as a campaign.

    Raises:
        ConfigError: naming every offending key with its path, the bound or the allowed values, and a suggestion for
            misspelt keys.
    """
    try:
        config = CampaignConfig.model_validate(content)
    except ValidationError as problem:
        lines = complaints(problem, content)
    else:
        lines = list(_truths(content, config.model_dump(), ""))
        if not lines:
            return config
    raise ConfigError(
        f"{where}: {len(lines)} problem{'s' if len(lines) > 1 else ''} in the configuration"
        + "".join(f"\n  - {line}" for line in lines),
        expected="known keys, with values that fit each other",
        consequence="the campaign would run with settings nobody asked for, so nothing was started",
        remedy="mend the keys named above; docs/configuration.md lists all of them",
    )


def _truths(written: Any, read: Any, path: str) -> Iterator[str]:
    """Complaints about `yes`, `on` and `true` where a number was meant: they would pass for the number 1."""
    if isinstance(written, bool) and not isinstance(read, bool):
        yield f"{path}: received {str(written).lower()}, which would be read as the number {read}"
    elif isinstance(written, dict):
        for name, value in written.items():
            yield from _truths(value, read[name], f"{path}.{name}" if path else str(name))
    elif isinstance(written, list):
        for place, value in enumerate(written):
            yield from _truths(value, read[place], f"{path}.{place}")


def one_grade(config: CampaignConfig, grade: int, teacher: str) -> CampaignConfig:
    """The campaign that learns a single grade of `config` from a trained checkpoint.

    Args:
        config: a whole ladder; that ladders like it are to be searched does not matter here.
        grade: which of its grades, from 1.
        teacher: the checkpoint.

    Raises:
        ConfigError: there is no such grade.
    """
    if not 1 <= grade <= len(config.grades):
        raise ConfigError(
            f"grade {grade}",
            expected=f"1 to {len(config.grades)}",
            consequence="another grade than the one meant would be searched",
            remedy="grades are counted from 1; 0 is the teacher",
        )
    content = config.model_dump(mode="json")
    content["grades"] = [content["grades"][grade - 1]]
    content["teacher"]["checkpoint"] = teacher
    content["ladders"] = None
    content["resources"]["concurrent_ladders"] = 1
    if config.grades[grade - 1].method is not None:
        # All methods of a comparison share it.
        content["compare"] = None
    if (config.grades[grade - 1].epochs or config.training.epochs) <= config.search.grace_epochs:
        # Early stopping that another grade is long enough for; on its own, this one would be refused for it.
        content["search"]["early_stopping"] = "none"
    return parse_config(content)


def dump_config(config: BaseModel) -> str:
    """The resolved configuration as YAML, every default spelt out."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def fingerprint(config: BaseModel) -> str:
    """SHA-256 of the resolved configuration, independent of the order of keys and of what was left to defaults."""
    return hashlib.sha256(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def anchored(config: CampaignConfig) -> CampaignConfig:
    """The same campaign with absolute local paths: what a process in another working directory needs."""
    place = config.data.path
    data = config.data.model_copy(update={"path": place if "://" in place else str(Path(place).absolute())})
    if not Path(config.encoder.name).is_dir():
        return config.model_copy(update={"data": data})
    encoder = config.encoder.model_copy(update={"name": str(Path(config.encoder.name).absolute())})
    return config.model_copy(update={"data": data, "encoder": encoder})
