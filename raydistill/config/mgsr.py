"""The section of multi-granularity semantic revision."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from raydistill.config.method_section import MethodSection
from raydistill.config.space import SearchedCount, SearchedFraction, SearchedWeight, require_some_weight


class MGSRSection(MethodSection):
    """Multi-granularity semantic revision: CE + the divergence on the dense part of the teacher's scores along revised lists + the correlation of neighbouring tokens."""

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        "clipped": {"log_uniform": [0.1, 3.0]},
        "span": {"log_uniform": [0.1, 3.0]},
        "length": {"choice": [5, 10, 20]},
        "mass": {"uniform": [0.5, 0.9]},
        "least": {"choice": [1, 2, 4]},
    }

    name: Literal["mgsr"] = Field("mgsr", description="which method this section is of")
    contrastive: SearchedWeight = Field(1.0, description="weight of the contrastive term")
    clipped: SearchedWeight = Field(1.0, description="weight of the clipped divergence")
    span: SearchedWeight = Field(1.0, description="weight of the span term")
    length: SearchedCount = Field(
        10, description="places of the student's list, at each of which it is compared with its teacher"
    )
    drawn: bool = Field(
        False,
        description="whether the student's list is drawn at random, by its own probabilities and without replacement; false = its best candidates in order",
    )
    mass: SearchedFraction = Field(
        0.7,
        description="share of the teacher's probability that the learned clipping has to keep; below it costs",
    )
    least: SearchedCount = Field(2, description="candidates that are kept however narrow the clipping is")
    span_distance: Literal["cosine", "squares"] = Field(
        "cosine",
        description="of the products of neighbouring tokens' distributions; squares shrink with the number of candidates",
    )

    @model_validator(mode="after")
    def _some_weight(self) -> MGSRSection:
        require_some_weight("contrastive, clipped and span", (self.contrastive, self.clipped, self.span))
        return self
