"""The section of multi-granularity semantic revision."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from raydistill.config.method_section import MethodSection
from raydistill.config.space import SearchedWeight, require_some_weight


class MGSRSection(MethodSection):
    """Multi-granularity semantic revision: CE + the divergence on the dense part of the teacher's scores along revised lists + the correlation of neighbouring tokens."""

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        "clipped": {"log_uniform": [0.1, 3.0]},
        "span": {"log_uniform": [0.1, 3.0]},
    }

    name: Literal["mgsr"] = Field("mgsr", description="which method this section is of")
    contrastive: SearchedWeight = Field(1.0, description="weight of the contrastive term")
    clipped: SearchedWeight = Field(1.0, description="weight of the clipped divergence")
    span: SearchedWeight = Field(1.0, description="weight of the span term")
    length: int = Field(
        10, ge=1, description="places of the student's list, at each of which it is compared with its teacher"
    )
    mass: float = Field(
        0.7,
        gt=0,
        lt=1,
        description="share of the teacher's probability that the learned clipping has to keep; below it costs",
    )
    least: int = Field(2, ge=1, description="candidates that are kept however narrow the clipping is")
    span_distance: Literal["cosine", "squares"] = Field(
        "cosine",
        description="of the products of neighbouring tokens' distributions; squares shrink with the number of candidates",
    )

    @model_validator(mode="after")
    def _some_weight(self) -> MGSRSection:
        require_some_weight("contrastive, clipped and span", (self.contrastive, self.clipped, self.span))
        return self
