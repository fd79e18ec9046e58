"""The section of automatic multi-step distillation: candidate assistants, trained together."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from raydistill.config.method_section import MethodSection
from raydistill.config.space import SearchedPositive, SearchedWeight, require_some_weight


class AssistantSection(MethodSection):
    """Automatic multi-step distillation: candidate assistants of several depths are trained as one student, and the grade promotes the one that loses least for what it saves."""

    alone: ClassVar[str] = (
        "other terms would train the deepest candidate of amd alone, and its choice would compare unequals"
    )
    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        "prediction": {"log_uniform": [0.1, 10.0]},
        "feature": {"log_uniform": [0.1, 10.0]},
        "temperature": {"log_uniform": [1.0, 10.0]},
    }

    name: Literal["amd"] = Field("amd", description="which method this section is of")
    depths: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None,
        min_length=1,
        description="layers of the candidates, the grade's own among them; null = from the grade's layers down to one more than student_layers",
    )
    student_layers: int | None = Field(
        None,
        ge=0,
        description="layers of the student that the assistant will teach; what is no deeper is not chosen; null = those of the grade below, "
        "or 0 where there is none: then all depths compete",
    )
    include_embeddings: bool = Field(True, description="whether embeddings count as size")
    contrastive: SearchedWeight = Field(1.0, description="weight of the contrastive term")
    prediction: SearchedWeight = Field(1.0, description="weight of the divergence of the score distributions")
    feature: SearchedWeight = Field(1.0, description="weight of the squared distance to the teacher's vectors")
    temperature: SearchedPositive = Field(1.0, description="distillation temperature on top of the models' own")

    @model_validator(mode="after")
    def _candidates_and_a_loss(self) -> AssistantSection:
        require_some_weight("contrastive, prediction and feature", (self.contrastive, self.prediction, self.feature))
        if self.depths is not None and len(set(self.depths)) != len(self.depths):
            raise ValueError(
                f"depths are {list(self.depths)}; expected each once, because a candidate that is named twice would count twice; remove the repeated one"
            )
        return self

    def settled(self, layers: int, student_layers: int | None) -> AssistantSection:
        """Itself with nothing left open.

        Args:
            layers: of the grade.
            student_layers: of the grade below; None = there is none.
        """
        below = self.student_layers if self.student_layers is not None else student_layers or 0
        # A grade no deeper than the one below has no candidate, which planning refuses.
        depths = self.depths or tuple(range(below + 1, layers + 1)) or (layers,)
        return self.model_copy(update={"depths": tuple(sorted(depths)), "student_layers": below})
