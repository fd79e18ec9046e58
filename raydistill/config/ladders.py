"""The section that asks for a search over whole ladders instead of one given ladder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydistill.config.space import LayerRule, Section
from raydistill.config.training import Count, Ratio

Objective = Literal["mrr", "bytes", "latency"]
Weight = Annotated[float, Field(ge=0, lt=1)]


class LadderSearchSection(Section):
    """Search over ladders: grades, depths, mask ratios, layer maps and PMD's weights. The result is the set of ladders that none beats."""

    ladders: Count = Field(8, description="ladders to run")
    startup_ladders: Count = Field(4, description="random ladders before TPE models the results")
    grades: tuple[Count, Count] = Field((1, 3), description="fewest and most grades below the teacher")
    depths: tuple[Count, ...] = Field(min_length=1, description="depths a grade may have; they fall down the ladder")
    mask_ratios: tuple[Ratio, ...] = Field(
        (0.0, 0.05, 0.1, 0.2), min_length=1, description="mask ratios a grade may have"
    )
    falling_masks: bool = Field(True, description="mask ratios fall down the ladder, as PMD's do")
    layer_maps: tuple[LayerRule, ...] = Field(
        ("skip", "first", "last"), min_length=1, description="layer maps a grade may have; see grades[].layer_map"
    )
    alphas: tuple[Weight, ...] = Field((0.1, 0.3), min_length=1, description="weights of the score term")
    betas: tuple[Weight, ...] = Field((0.0, 0.1), min_length=1, description="weights of the masked-feature term")
    objectives: tuple[Objective, ...] = Field(
        ("mrr", "bytes"),
        min_length=1,
        description="mrr: validation MRR of the smallest student; bytes: of its weights; latency: its milliseconds per query, of one CPU thread's time",
    )

    @model_validator(mode="after")
    def _possible(self) -> LadderSearchSection:
        if self.grades[0] > self.grades[1]:
            raise ValueError(f"grades: fewest must not be above most, received {list(self.grades)}")
        if self.grades[0] > len(set(self.depths)):
            raise ValueError(
                f"grades: at least {self.grades[0]} were asked for, and depths has {len(set(self.depths))} of which each may stand in a ladder once, received {list(self.depths)}"
            )
        if max(self.alphas) + max(self.betas) >= 1:
            raise ValueError(
                f"alpha + beta can reach {max(self.alphas) + max(self.betas):g}; expected below 1, because the contrastive term would get no weight"
            )
        if len(set(self.objectives)) != len(self.objectives):
            raise ValueError("an objective is named once")
        return self

    def require_falling(self, teacher: int | None) -> None:
        """Refuse a depth that no ladder below a teacher of so many layers can have; None = all of the encoder's, which is not known here.

        Raises:
            ValueError: naming it.
        """
        deepest = max(self.depths)
        if teacher is not None and deepest > teacher:
            raise ValueError(
                f"ladders.depths has {deepest}, which stands below a teacher of {teacher}; depth may only fall down the ladder"
            )
