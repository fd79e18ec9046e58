"""The method sections: one per way of distilling, told apart by `name`. How a section becomes parts is `training/methods.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydistill.config.space import Choice, LogUniform, Section, Uniform, bounds

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
SearchedShare = Share | Choice[Share] | Uniform
SearchedPositive = Positive | Choice[Positive] | Uniform | LogUniform


class PMDSection(Section):
    """Progressive distillation with masked generation features: (1 - alpha - beta) CE + alpha SCORE + beta MGFD."""

    name: Literal["pmd"] = Field("pmd", description="which method this section is of")
    alpha: SearchedShare = Field(0.1, description="weight of the score term")
    beta: SearchedShare = Field(0.1, description="weight of the masked-feature term")
    preset: Literal["paper", "reference"] = Field(
        "paper",
        description="paper: masked features per token, raw, CE the mean of both directions; "
        "reference: pooled and normalised, CE the sum of both directions, as the public code does",
    )
    over_hidden: Literal["mean", "sum"] = Field("mean", description="reduction over hidden units, preset paper only")
    score_space: Literal["cosine", "logits"] = Field(
        "cosine",
        description="cosine: margin-free cosines times the teacher's frozen inverse temperature; logits: as the public code",
    )

    @model_validator(mode="after")
    def _task_keeps_a_share(self) -> PMDSection:
        highest = bounds(self.alpha)[1] + bounds(self.beta)[1]
        if highest >= 1:
            raise ValueError(
                f"alpha + beta can reach {highest:g}; expected below 1, because the contrastive term would get weight "
                f"{1 - highest:g} and nothing would hold the student to the graph; lower one of them"
            )
        return self


class LogitsSection(Section):
    """Logit distillation: (1 - alpha) CE + alpha KD, where KD is tau^2 KL (Hinton) or the MSE of scores."""

    name: Literal["logits"] = Field("logits", description="which method this section is of")
    divergence: Literal["kl", "mse"] = Field(
        "kl", description="kl: of the distributions over candidates, as Hinton; mse: squared distance of the scores"
    )
    alpha: SearchedShare = Field(0.5, description="weight of the distillation term")
    temperature: SearchedPositive = Field(
        4.0, description="distillation temperature on top of the models' own, kl only"
    )


class PKDSection(Section):
    """Patient distillation: (1 - alpha) CE + alpha tau^2 KL + beta PT over pooled, normalised intermediate states."""

    name: Literal["pkd"] = Field("pkd", description="which method this section is of")
    alpha: SearchedShare = Field(0.5, description="weight of the distillation term")
    beta: SearchedPositive = Field(10.0, description="weight of the patience term")
    temperature: SearchedPositive = Field(5.0, description="distillation temperature on top of the models' own")
    match: Literal["skip", "last"] = Field("skip", description="which teacher layers the student's layers learn from")
    pooling: Literal["mean", "cls"] = Field(
        "mean", description="what of a layer is compared: the mean of its token states, or the first one"
    )


class NoneSection(Section):
    """No distillation: the contrastive term alone, from the same initial layers."""

    name: Literal["none"] = Field("none", description="which method this section is of")


def sees_masks(method: Section) -> bool:
    """Whether a method has a term that looks at masked texts of its own accord, rather than because all terms share the masked view."""
    return isinstance(method, PMDSection) and method.beta != 0


Method = Annotated[PMDSection | LogitsSection | PKDSection | NoneSection, Field(discriminator="name")]
METHOD_SECTIONS: dict[str, type[Section]] = {
    "pmd": PMDSection,
    "logits": LogitsSection,
    "pkd": PKDSection,
    "none": NoneSection,
}
