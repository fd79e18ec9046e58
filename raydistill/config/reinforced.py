"""The section of reinforced distillation, whose policy chooses among several teachers for each example."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from raydistill.config.method_section import MethodSection
from raydistill.config.space import SearchedPositive, SearchedShare


class ReinforcedSection(MethodSection):
    """Reinforced multi-teacher selection: (1 - alpha) CE + alpha KD of the teachers that a learned policy switches on, example by example."""

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        "alpha": {"uniform": [0.1, 0.9]},
        "temperature": {"log_uniform": [1.0, 10.0]},
        "warmup_ratio": {"uniform": [0.0, 0.5]},
    }

    name: Literal["reinforced"] = Field("reinforced", description="which method this section is of")
    teachers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        description="who teaches beside the grade above (paths or URIs): checkpoints of other seeds, grades or encoders with the same tokenizer, and structural models (`jobs/structural.py`), which `objective: mse` does not take",
    )
    earlier: bool = Field(
        True,
        description="the grades above the one above teach, too; sequential schedule only: elsewhere their final students are not there yet",
    )
    alpha: SearchedShare = Field(0.5, description="weight of the distillation term")
    temperature: SearchedPositive = Field(
        4.0, description="distillation temperature on top of the models' own, kl only"
    )
    objective: Literal["kl", "mse"] = Field(
        "kl", description="what is learnt of each teacher: the distribution over candidates, or the scores themselves"
    )
    weights: Literal["chosen", "probabilities"] = Field(
        "chosen",
        description="chosen: the mean over the teachers that were switched on; probabilities: all teachers, weighted by how likely each is switched on",
    )
    reward: Literal["example", "batch"] = Field(
        "example",
        description="what the policy is told: of each example -CE - KD; or the whole batch's -CE as one number, as published first, which is unreliable",
    )
    warmup_ratio: SearchedShare = Field(
        0.1,
        description="share of the epochs in which all teachers are on, in whole ones: at least one where it is above 0 (none of a single epoch), and never the last",
    )

    @model_validator(mode="after")
    def _each_once(self) -> ReinforcedSection:
        if len(set(self.teachers)) != len(self.teachers):
            raise ValueError(
                f"teachers are {', '.join(self.teachers)}; expected each once, because one that is there twice would count twice; remove the repeated one"
            )
        return self

    def idle(self) -> dict[str, str]:
        """See `MethodSection.idle`."""
        unused = self.objective == "mse" and self._asked("temperature")
        return {"temperature": "objective mse compares the scores as they are"} if unused else {}
