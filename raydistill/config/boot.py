"""The section of data-free distillation with bootstrapping."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from raydistill.config.method_section import MethodSection
from raydistill.config.space import SearchedFraction, SearchedPositive, SearchedShare, SearchedWeight, bounds


class BootSection(MethodSection):
    """Distillation without triples: a student told how much its teacher's text is masked learns from its own later self and its teacher, on texts put together at random."""

    alone: ClassVar[str] = (
        "boot's examples are random and have no right answer, which the contrastive term of every other method needs"
    )
    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        "boundary": {"log_uniform": [0.1, 10.0]},
        "t_max": {"uniform": [0.1, 0.8]},
        "score": {"uniform": [0.0, 3.0]},
        "step": {"choice": [0.05, 0.1]},
        "at_end": {"uniform": [0.1, 0.5]},
    }

    name: Literal["boot"] = Field("boot", description="which method this section is of")
    source: Literal["triple-free", "text-free"] = Field(
        "triple-free",
        description="triple-free: the graph's texts, in random pairs of head and relation; text-free: random tokens, as many as the graph's texts have",
    )
    examples: int | None = Field(
        None,
        ge=1,
        description="random queries of an epoch, each with a candidate; null = as many as other methods have, which is two for each training triple "
        "(their number is taken from the manifest), or where there are none four for each entity",
    )
    bootstrap: SearchedPositive = Field(1.0, description="weight of the bootstrap term")
    boundary: SearchedWeight = Field(1.0, description="weight of the boundary term")
    score: SearchedWeight = Field(
        1.0,
        description="weight of the divergence of the scores that the bootstrapped targets give the batch's candidates",
    )
    t_max: SearchedShare = Field(0.5, description="highest time: share of a text's tokens that the teacher may miss")
    step: SearchedFraction = Field(
        0.1, description="from a time to the earlier one that is taught by it; at most t_max"
    )
    at_end: SearchedFraction = Field(
        0.25, description="share of texts at t_max, on which the boundary term is; the others are below it"
    )

    @model_validator(mode="after")
    def _steps_fit_into_the_path(self) -> BootSection:
        longest, shortest = bounds(self.step)[1], bounds(self.t_max)[0]
        if longest > shortest:
            raise ValueError(
                f"step is {longest:g} and t_max {shortest:g}; expected a step of at most t_max, because every text would be taught at time 0 and no "
                "target would be the student's own; lower step, or raise t_max"
            )
        return self
