"""The section of education distillation, whose student grows while it learns."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from raydistill.config.method_section import MethodSection
from raydistill.config.space import SearchedCount, SearchedFraction, SearchedPositive, SearchedShare, counts


class EducationSection(MethodSection):
    """Education distillation: the student grows stage by stage, each stage opens one more part of the relations, and each part is taught among its own candidates."""

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        "alpha": {"uniform": [0.1, 0.9]},
        "temperature": {"log_uniform": [1.0, 10.0]},
        "stages": {"choice": [2, 3]},
        "end": {"uniform": [0.3, 0.8]},
    }
    alone: ClassVar[str] = "its student grows, so the layers that the terms of others look at would come and go"

    name: Literal["education"] = Field("education", description="which method this section is of")
    stages: SearchedCount = Field(
        3,
        description="school grades of the student: parts of its layers and of the graph's relations; at most as many as it has layers",
    )
    teachers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        description="a checkpoint (path or URI) for each part, in order, that teaches the part alone, of any encoder with the same tokenizer; the same one may be there "
        "for several; none = the grade above teaches all parts",
    )
    alpha: SearchedShare = Field(
        0.3, description="weight of the contrastive term; the divergence from the teacher has the rest"
    )
    temperature: SearchedPositive = Field(4.0, description="distillation temperature on top of the models' own")
    rehearsal: bool = Field(
        True,
        description="go on with all parts that are open; false = with the newest one alone, to see what is forgotten",
    )
    end: SearchedFraction = Field(
        0.6, description="share of the epochs after which the last stage begins; the others evenly before"
    )

    @model_validator(mode="after")
    def _one_for_each_part(self) -> EducationSection:
        stages = counts(self.stages)
        if self.teachers and stages != (len(self.teachers),):
            raise ValueError(
                f"teachers are {len(self.teachers)}, and stages is {' or '.join(map(str, stages))}; expected a checkpoint for each part, or none at all, because a part would have "
                "nobody to teach it, or a teacher no part; name as many as there are stages, some more than once if need be, or leave teachers out"
            )
        return self
