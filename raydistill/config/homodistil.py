"""The section of a student that is pruned while it learns."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from raydistill.config.method_section import MethodSection
from raydistill.config.space import (
    SearchedCount,
    SearchedPositive,
    SearchedShare,
    SearchedWeight,
    bounds,
    require_some_weight,
)


class HomoDistilSection(MethodSection):
    """Homotopic distillation: the student starts as its teacher and is pruned a few units at a time while it learns to stay like it."""

    shaping: ClassVar[tuple[str, ...]] = ("width", "intermediate")
    taught: ClassVar[tuple[str, ...]] = ("prediction", "hidden", "attention")
    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        **{name: {"log_uniform": [0.01, 10.0]} for name in ("prediction", "hidden", "attention")},
        "temperature": {"log_uniform": [1.0, 10.0]},
        "begin": {"uniform": [0.0, 0.3]},
        "end": {"uniform": [0.3, 0.8]},
    }

    name: Literal["homodistil"] = Field("homodistil", description="which method this section is of")
    width: SearchedCount = Field(
        description="hidden units of the student in the end, a multiple of its heads; entity vectors are as wide, and so are the students below it that start from it",
    )
    intermediate: SearchedCount | None = Field(
        None, description="units of each feed-forward layer in the end; null = in proportion to the width"
    )
    begin: SearchedShare = Field(0.0, description="share of all steps after which pruning begins")
    end: SearchedShare = Field(
        0.7,
        description="share of all steps after which it is over; no epoch before that is validated for promotion; equal to begin = all at once",
    )
    contrastive: SearchedWeight = Field(1.0, description="weight of the contrastive term")
    prediction: SearchedWeight = Field(1.0, description="weight of the divergence of the score distributions")
    hidden: SearchedWeight = Field(1.0, description="weight of the hidden states' squared error, summed over layers")
    attention: SearchedWeight = Field(
        1.0, description="weight of the attention distributions' squared error, summed over layers"
    )
    temperature: SearchedPositive = Field(1.0, description="distillation temperature on top of the teacher's own")

    @model_validator(mode="after")
    def _in_order(self) -> HomoDistilSection:
        latest, earliest = bounds(self.begin)[1], bounds(self.end)[0]
        if latest > earliest:
            raise ValueError(
                f"begin is {latest:g} and end {earliest:g}; pruning cannot be over before it begins; exchange them"
            )
        weights = self.contrastive, self.prediction, self.hidden, self.attention
        require_some_weight("contrastive, prediction, hidden and attention", weights)
        return self
