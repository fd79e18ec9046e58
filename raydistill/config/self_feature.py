"""The section of self-feature regularisation, which has no teacher."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from raydistill.config.method_section import MethodSection
from raydistill.config.space import SearchedCount, SearchedPositive, SearchedShare


class SelfFeatureSection(MethodSection):
    """Self-feature regularisation: no teacher; the student's deep layer teaches its shallow ones, and its earlier opinion softens the labels."""

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        "gamma": {"log_uniform": [0.01, 1.0]},
        "smoothing": {"uniform": [0.0, 0.3]},
    }

    name: Literal["self-feature"] = Field("self-feature", description="which method this section is of")
    gamma: SearchedPositive = Field(0.1, description="weight of the transport term")
    smoothing: SearchedShare = Field(
        0.1,
        description="share of a target that is the student's own earlier opinion, in the last epoch; it rises from 0 in the first",
    )
    groups: SearchedCount | None = Field(
        None,
        description="channels are averaged in so many groups before they are compared; null = each by itself",
    )
    projection: bool = Field(False, description="bring shallow states to the deep ones through a learned projection")
