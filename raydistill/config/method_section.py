"""The base of all method sections: values that may be left to the search without saying where it should look."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import model_validator

from raydistill.config.space import Section, bounds, is_distribution

SEARCH = "search"


class MethodSection(Section):
    """One way of distilling.

    Attributes:
        spaces: for each value that may be `search`, where is then searched: as one would write it in its place.
        alone: why it cannot be a part of `combined`; empty = it can.
        shaping: the values that give the student another shape or number format; empty = it keeps those that it begins with.
        taught: the weights of everything that a teacher tells it. With all of them 0 a section that has some is a student of the same shape without a teacher,
            which others are measured against.
    """

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {}
    alone: ClassVar[str] = ""
    shaping: ClassVar[tuple[str, ...]] = ()
    taught: ClassVar[tuple[str, ...]] = ()

    def shape(self) -> tuple[Any, ...]:
        """The values of `shaping`. Those of two sections are equal where their students are of one shape and format, as far as a section by itself can tell."""
        return tuple(getattr(self, name) for name in self.shaping)

    def idle(self) -> dict[str, str]:
        """The values that change nothing beside others of this section, and why; none where they are the default.

        Not refused: the results are right, and files of runs that have such values are to be read.
        """
        return {}

    def _asked(self, name: str) -> bool:
        """Whether a number was set to another value than the default, or is searched."""
        value, usual = getattr(self, name), type(self).model_fields[name].default
        return bool(bounds(value) != (usual, usual) if is_distribution(value) else value != usual)

    @model_validator(mode="before")
    @classmethod
    def _searched_where_it_is_usual(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        asked = [key for key, value in given.items() if value == SEARCH]
        for key in asked:
            if key not in cls.spaces:
                raise ValueError(
                    f"{key} is {SEARCH}, and no space is usual for it; expected one of {', '.join(cls.spaces) or 'none'}, or a `choice`, `uniform` or "
                    "`log_uniform` of your own"
                )
        return {**given, **{key: cls.spaces[key] for key in asked}}
