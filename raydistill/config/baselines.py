"""The sections of the usual ways of distilling, with which the others are compared."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from raydistill.config.method_section import MethodSection
from raydistill.config.space import (
    SearchedPositive,
    SearchedShare,
    SearchedShareOrAll,
    SearchedWeight,
    require_some_weight,
)


class LogitsSection(MethodSection):
    """Logit distillation: (1 - alpha) CE + alpha KD, where KD is tau^2 KL (Hinton) or the MSE of scores."""

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        "alpha": {"uniform": [0.1, 0.9]},
        "temperature": {"log_uniform": [1.0, 10.0]},
    }

    name: Literal["logits"] = Field("logits", description="which method this section is of")
    divergence: Literal["kl", "mse"] = Field(
        "kl", description="kl: of the distributions over candidates, as Hinton; mse: squared distance of the scores"
    )
    alpha: SearchedShare = Field(0.5, description="weight of the distillation term")
    temperature: SearchedPositive = Field(
        4.0, description="distillation temperature on top of the models' own, kl only"
    )

    def idle(self) -> dict[str, str]:
        """See `MethodSection.idle`."""
        unused = self.divergence == "mse" and self._asked("temperature")
        return {"temperature": "divergence mse compares the scores as they are"} if unused else {}


class PKDSection(MethodSection):
    """Patient distillation: (1 - alpha) CE + alpha tau^2 KL + beta PT over pooled, normalised intermediate states."""

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        "alpha": {"uniform": [0.1, 0.9]},
        "beta": {"log_uniform": [1.0, 1000.0]},
        "temperature": {"log_uniform": [1.0, 20.0]},
    }

    name: Literal["pkd"] = Field("pkd", description="which method this section is of")
    alpha: SearchedShare = Field(0.5, description="weight of the distillation term")
    beta: SearchedPositive = Field(10.0, description="weight of the patience term")
    temperature: SearchedPositive = Field(5.0, description="distillation temperature on top of the models' own")
    match: Literal["skip", "last"] = Field("skip", description="which teacher layers the student's layers learn from")
    pooling: Literal["mean", "cls"] = Field(
        "mean", description="what of a layer is compared: the mean of its token states, or the first one"
    )


class DKDSection(MethodSection):
    """Decoupled distillation: CE + tau^2 (alpha TCKD + beta NCKD), the divergence of the right candidate's probability and that among the wrong ones."""

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        "alpha": {"log_uniform": [0.25, 4.0]},
        "beta": {"log_uniform": [0.5, 8.0]},
        "temperature": {"log_uniform": [1.0, 8.0]},
        "warmup_ratio": {"uniform": [0.0, 0.5]},
    }

    name: Literal["dkd"] = Field("dkd", description="which method this section is of")
    contrastive: SearchedWeight = Field(1.0, description="weight of the contrastive term")
    alpha: SearchedWeight = Field(1.0, description="weight of the right candidate's part (TCKD)")
    beta: SearchedPositive = Field(8.0, description="weight of the wrong candidates' part (NCKD)")
    temperature: SearchedPositive = Field(4.0, description="distillation temperature on top of the models' own")
    warmup_ratio: SearchedShareOrAll = Field(
        0.0833,
        description="share of the epochs over which the distillation term's weight rises; 20 of 240 as published",
    )


class TinyBERTSection(MethodSection):
    """TinyBERT's transformer distillation: embeddings, attention scores and hidden states of mapped layers, and the score distribution."""

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        **{name: {"log_uniform": [0.01, 10.0]} for name in ("embedding", "attention", "hidden", "prediction")},
        "temperature": {"log_uniform": [1.0, 10.0]},
    }

    name: Literal["tinybert"] = Field("tinybert", description="which method this section is of")
    contrastive: SearchedWeight = Field(
        1.0, description="weight of the contrastive term; 0 = soft labels alone, as published"
    )
    embedding: SearchedWeight = Field(1.0, description="weight of the embeddings' squared error")
    attention: SearchedWeight = Field(1.0, description="weight of the attention scores' squared error")
    hidden: SearchedWeight = Field(1.0, description="weight of the hidden states' squared error")
    prediction: SearchedWeight = Field(1.0, description="weight of the divergence of the score distributions")
    temperature: SearchedPositive = Field(1.0, description="distillation temperature on top of the models' own")

    @model_validator(mode="after")
    def _some_weight(self) -> TinyBERTSection:
        weights = self.contrastive, self.embedding, self.attention, self.hidden, self.prediction
        require_some_weight("contrastive, embedding, attention, hidden and prediction", weights)
        return self


class DistilBERTSection(MethodSection):
    """DistilBERT's triple loss: the task, the score distribution, and the directions of the last token states."""

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        "prediction": {"log_uniform": [0.1, 10.0]},
        "cosine": {"log_uniform": [0.01, 10.0]},
        "temperature": {"log_uniform": [1.0, 10.0]},
    }

    name: Literal["distilbert"] = Field("distilbert", description="which method this section is of")
    contrastive: SearchedWeight = Field(1.0, description="weight of the contrastive term")
    prediction: SearchedWeight = Field(2.5, description="weight of the divergence of the score distributions")
    cosine: SearchedWeight = Field(0.5, description="weight of the angle between last token states")
    temperature: SearchedPositive = Field(2.0, description="distillation temperature on top of the models' own")

    @model_validator(mode="after")
    def _some_weight(self) -> DistilBERTSection:
        require_some_weight("contrastive, prediction and cosine", (self.contrastive, self.prediction, self.cosine))
        return self


class NoneSection(MethodSection):
    """No distillation: the contrastive term alone, from the same initial layers."""

    name: Literal["none"] = Field("none", description="which method this section is of")
