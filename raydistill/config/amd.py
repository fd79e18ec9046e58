"""The section of automatic multi-step distillation: candidate assistants, trained together."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from raydistill.config.method_section import MethodSection
from raydistill.config.space import SearchedPositive, SearchedWeight, require_some_weight


class AssistantSection(MethodSection):
    """Automatic multi-step distillation: candidate assistants of several depths and widths are trained as one student, and the grade promotes the one that loses least for what it saves."""

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
    intermediate: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None,
        min_length=1,
        description="feed-forward units of further candidates, each number lower than what the student has: every depth competes with all of its units and with so many of the most important ones; "
        "a step trains one width, in turn; null = with all of them only",
    )
    student_layers: int | None = Field(
        None,
        ge=0,
        description="layers of the student that the assistant will teach; what is no larger than so many of this grade's layers is not chosen; null = those of the grade below, "
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
        for name in ("depths", "intermediate"):
            numbers = getattr(self, name) or ()
            if len(set(numbers)) != len(numbers):
                raise ValueError(
                    f"{name} are {list(numbers)}; expected each once, because a candidate that is named twice would count twice; remove the repeated one"
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
        widths = tuple(sorted(self.intermediate)) if self.intermediate else None
        return self.model_copy(
            update={"depths": tuple(sorted(depths)), "intermediate": widths, "student_layers": below}
        )
