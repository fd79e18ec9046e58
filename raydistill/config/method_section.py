"""The base of all method sections: values that may be left to the search without saying where it should look."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import model_validator

from raydistill.config.space import Section

SEARCH = "search"


class MethodSection(Section):
    """One way of distilling.

    Attributes:
        spaces: for each value that may be `search`, where is then searched: as one would write it in its place.
        reshapes: whether it changes the student's shape or number format.
        taught: the weights of what it learns from a teacher, where the section with all of them 0 is a student of the same shape that has none; empty = there
            is no such thing, or it is called `none`.
        alone: why it cannot be a part of `combined`; empty = it can.
    """

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {}
    alone: ClassVar[str] = ""
    reshapes: ClassVar[bool] = False
    taught: ClassVar[tuple[str, ...]] = ()

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
