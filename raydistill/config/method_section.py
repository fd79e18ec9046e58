"""The base of all method sections: values that may be left to the search without saying where it should look."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import model_validator

from raydistill.config.space import Section, is_distribution

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

    def _refuse_idle(self, name: str, why: str, remedy: str) -> None:
        """Refuse a value that has no say, where it was asked for: it would be believed to have had one, and a search would try equal work again and again.

        Raises:
            ValueError: it is not the default.
        """
        value, usual = getattr(self, name), type(self).model_fields[name].default
        if value != usual:
            shown = "searched" if is_distribution(value) else value
            raise ValueError(
                f"{name} is {shown}, and {why}; expected no word on it, because it would change nothing; leave it out, or {remedy}"
            )

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
