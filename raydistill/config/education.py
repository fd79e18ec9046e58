"""The section of education distillation, whose student grows while it learns."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from raydistill.config.method_section import MethodSection
from raydistill.config.space import SearchedPositive, SearchedShare


class EducationSection(MethodSection):
    """Education distillation: the student grows stage by stage, each stage opens one more part of the relations, and each part is taught among its own candidates."""

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        "alpha": {"uniform": [0.1, 0.9]},
        "temperature": {"log_uniform": [1.0, 10.0]},
    }
    alone: ClassVar[str] = "its student grows, so the layers that the terms of others look at would come and go"

    name: Literal["education"] = Field("education", description="which method this section is of")
    stages: int = Field(
        3,
        ge=1,
        description="school grades of the student: parts of its layers and of the graph's relations; at most as many as it has layers",
    )
    alpha: SearchedShare = Field(
        0.3, description="weight of the contrastive term; the divergence from the teacher has the rest"
    )
    temperature: SearchedPositive = Field(4.0, description="distillation temperature on top of the models' own")
    rehearsal: bool = Field(
        True,
        description="go on with all parts that are open; false = with the newest one alone, to see what is forgotten",
    )
    end: float = Field(
        0.6, gt=0, lt=1, description="share of the epochs after which the last stage begins; the others evenly before"
    )
