"""Values that a search may choose: a fixed value, a choice, or an interval. What is sampled, and how, is planning's business."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T")

LayerRule = Literal["uniform", "first", "last", "skip"]
LayerMap = LayerRule | tuple[Annotated[int, Field(ge=0)], ...]
View = Literal["shared", "separate"]
Init = Literal["pretrained", "teacher"]
Place = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path, a URI or a name; `~` is the home folder of whoever begins the campaign, and not of whoever trains."""


class Section(BaseModel):
    """Base of every section: unknown keys are refused, nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Choice(Section, Generic[T]):
    """One of several listed values, each given once."""

    choice: tuple[T, ...] = Field(min_length=1, description="the values to choose from")

    @model_validator(mode="after")
    def _distinct(self) -> Choice[T]:
        if len(set(self.choice)) != len(self.choice):
            raise ValueError(f"each value is listed once, received {list(self.choice)}; remove the repeated one")
        return self


class Uniform(Section):
    """A real number between two bounds, both included."""

    uniform: tuple[float, float] = Field(description="lowest and highest value")

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if not self.uniform[0] < self.uniform[1]:
            raise ValueError(f"the lower bound must be below the upper one, received {list(self.uniform)}")
        return self


class LogUniform(Section):
    """A positive real number between two bounds, drawn evenly on the logarithmic scale."""

    log_uniform: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]

    @model_validator(mode="after")
    def _ordered(self) -> LogUniform:
        if not self.log_uniform[0] < self.log_uniform[1]:
            raise ValueError(f"the lower bound must be below the upper one, received {list(self.log_uniform)}")
        return self


Share = Annotated[float, Field(ge=0, lt=1)]
ShareOrAll = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
SearchedShare = Share | Choice[Share] | Uniform
SearchedShareOrAll = ShareOrAll | Choice[ShareOrAll] | Uniform
SearchedPositive = Positive | Choice[Positive] | Uniform | LogUniform
SearchedWeight = Weight | Choice[Weight] | Uniform | LogUniform
SearchedFraction = Fraction | Choice[Fraction] | Uniform
SearchedCount = Count | Choice[Count]
SearchedIndex = Index | Choice[Index]


def is_distribution(value: object) -> bool:
    """Whether `value` is something to be searched rather than a fixed value."""
    return isinstance(value, (Choice, Uniform, LogUniform))


def bounds(value: float | Choice[float] | Uniform | LogUniform) -> tuple[float, float]:
    """Lowest and highest number that `value` can become."""
    if isinstance(value, Choice):
        return min(value.choice), max(value.choice)
    if isinstance(value, Uniform):
        return value.uniform
    if isinstance(value, LogUniform):
        return value.log_uniform
    return value, value


def counts(value: SearchedCount | None) -> tuple[int, ...]:
    """All numbers that `value` can become."""
    if value is None:
        return ()
    return value.choice if isinstance(value, Choice) else (value,)


def require_some_weight(names: str, weights: Sequence[float | Choice[float] | Uniform | LogUniform]) -> None:
    """Refuse weights that can all become 0 at once.

    Raises:
        ValueError: there would be no loss.
    """
    if all(bounds(weight)[0] <= 0 for weight in weights):
        raise ValueError(
            f"{names} can all be 0; expected one of them above 0 in every trial, because otherwise there is nothing to train for; raise one"
        )
