"""The values of a method's section by name, and the method that comes of it when they are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from raydistill.config.boot import BootSection
from raydistill.config.methods import METHOD_SECTIONS, CombinedSection, Method
from raydistill.config.space import is_distribution
from raydistill.errors import ConfigError


def method_values(method: Method) -> list[tuple[str, Any]]:
    """What a method's section says, by name; of a combined one `PART.name`, with the name of the part's method."""
    if isinstance(method, CombinedSection):
        return [(f"{part.name}.{name}", value) for part in method.parts for name, value in method_values(part)]
    return [(name, getattr(method, name)) for name in METHOD_SECTIONS[method.name].model_fields]


def resolved_method(method: Method, parameters: Mapping[str, Any]) -> Method:
    """A method with the values that a search chose.

    Raises:
        ConfigError: its section refuses one.
    """
    chosen = {name.removeprefix("method."): value for name, value in parameters.items() if name.startswith("method.")}
    try:
        resolved = _with_values(method, chosen)
    except ValidationError as problem:
        raise refused(f"method {method.name} with {chosen}", problem) from None
    left = [name for name, value in method_values(resolved) if is_distribution(value)]
    assert not left, f"still to be searched: {left}"
    return resolved


def budgeted(method: Method, epoch_examples: int | None) -> Method:
    """A method that reads no triple with as many examples in an epoch as the others have, unless it says how many; any other as it is."""
    if isinstance(method, BootSection) and method.examples is None:
        return method.model_copy(update={"examples": epoch_examples})
    return method


def _with_values(method: Method, chosen: Mapping[str, Any]) -> Method:
    """A method with some of its values, named as `method_values` names them, replaced.

    Raises:
        ValidationError: its section refuses one.
    """
    if isinstance(method, CombinedSection):
        parts = [
            _with_values(
                part,
                {
                    name.removeprefix(f"{part.name}."): value
                    for name, value in chosen.items()
                    if name.startswith(f"{part.name}.")
                },
            )
            for part in method.parts
        ]
        return CombinedSection(parts=parts)
    section = METHOD_SECTIONS[method.name]
    return section.model_validate({**method.model_dump(), **chosen})  # type: ignore[return-value]


def refused(what: str, problem: ValidationError) -> ConfigError:
    """A searched value that the section it ends in refuses, in the section's own words."""
    return ConfigError(
        f"{what}: {problem.errors()[0]['msg']}",
        expected="a value that docs/configuration.md allows",
        remedy="narrow the interval or the choice that this value is drawn from",
    )
