"""The pre-trained encoder that a checkpoint descends from, by name. Its record knows a fingerprint only; the run it lies in knows more."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from raydistill.errors import ConfigError

_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_RUN_ABOVE = 5
"""RUN/grades/<grade>/trials/<id>/checkpoints/<step>."""


def is_hub_name(name: str) -> bool:
    """Whether a name may be one of the hub; a folder's path or a package is none."""
    return _HUB.fullmatch(name) is not None


def checked_base_model(name: str | None) -> None:
    """Refuse what a card's front matter may not name.

    Raises:
        ConfigError: it is no name of the hub.
    """
    if name is not None and not is_hub_name(name):
        raise ConfigError(
            f"base model {name!r}",
            expected="a name of the Hugging Face hub, such as bert-base-uncased or owner/name",
            consequence="the hub would refuse the card",
            remedy="give that name, or leave it out",
        )


def encoder_name(checkpoint: Path) -> str | None:
    """The encoder of the run that a checkpoint lies in, a name of the hub or package:<module>; None = unknown, or a folder of this machine."""
    parents = checkpoint.resolve().parents
    if len(parents) <= _RUN_ABOVE or not (file := parents[_RUN_ABOVE] / "config.yaml").is_file():
        return None
    try:
        name = yaml.safe_load(file.read_text(encoding="utf-8"))["encoder"]["name"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
    if not isinstance(name, str) or Path(name).exists():
        return None
    return name if is_hub_name(name) or re.fullmatch(r"package:[\w.]+", name) else None
