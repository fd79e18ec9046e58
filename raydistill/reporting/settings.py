"""A method's section in a few words: what somebody wrote there that is not the default."""

from __future__ import annotations

from typing import Any

from raydistill.config.methods import Method, parts_of
from raydistill.reporting.table import plain


def settings_of(method: Method) -> str:
    """The values of a section, or of its parts, that are not the default: `weight_bits 2, embedding_bits 8`."""
    parts = parts_of(method)
    return ", ".join(
        f"{part.name + '.' if len(parts) > 1 else ''}{name} {_value(value)}"
        for part in parts
        for name, value in part.model_dump(mode="json", exclude_defaults=True).items()
        if name != "name"
    )


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return " and ".join(f"{how} {_value(among)}" for how, among in value.items())
    if isinstance(value, list):
        return f"[{', '.join(_value(one) for one in value)}]"
    return plain(value)
