"""The section of distilling and quantising at the same time."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from raydistill.config.method_section import MethodSection
from raydistill.config.space import Choice, SearchedShare, SearchedWeight, require_some_weight

WeightBits = Literal[2, 8, 16]
ActivationBits = Literal[8, 16, 32]


class DQSection(MethodSection):
    """Joint distillation and quantisation (DQ-BART): a student of few bits learns scores, attention and states from a teacher of full precision."""

    shaping: ClassVar[tuple[str, ...]] = ("weight_bits", "embedding_bits", "activation_bits")
    taught: ClassVar[tuple[str, ...]] = ("prediction", "attention", "hidden")
    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        "prediction": {"log_uniform": [0.01, 10.0]},
        "attention": {"log_uniform": [0.1, 1000.0]},
        "hidden": {"log_uniform": [0.01, 10.0]},
        "range_memory": {"uniform": [0.5, 0.99]},
        "weight_bits": {"choice": [2, 8]},
        "embedding_bits": {"choice": [2, 8]},
        "activation_bits": {"choice": [8, 16]},
    }

    name: Literal["dq"] = Field("dq", description="which method this section is of")
    weight_bits: WeightBits | Choice[WeightBits] = Field(
        8, description="bits of the weights of linear layers; 2 = ternary"
    )
    embedding_bits: WeightBits | Choice[WeightBits] | None = Field(
        None, description="bits of the embeddings' rows; null = weight_bits"
    )
    activation_bits: ActivationBits | Choice[ActivationBits] = Field(
        8, description="bits of what is multiplied with weights and in attention; 32 = not rounded"
    )
    range_memory: SearchedShare = Field(
        0.9, description="share of an activation's range that stays from one step to the next"
    )
    contrastive: SearchedWeight = Field(1.0, description="weight of the contrastive term")
    prediction: SearchedWeight = Field(1.0, description="weight of the squared error of logits")
    attention: SearchedWeight = Field(1.0, description="weight of the squared error of attention probabilities")
    hidden: SearchedWeight = Field(1.0, description="weight of the squared error of embeddings and token states")

    def shape(self) -> tuple[Any, ...]:
        """Bits of weights, of embeddings and of what is multiplied: bits that are left out are those of the weights."""
        embeddings = self.weight_bits if self.embedding_bits is None else self.embedding_bits
        return self.weight_bits, embeddings, self.activation_bits

    @model_validator(mode="after")
    def _some_weight(self) -> DQSection:
        weights = self.contrastive, self.prediction, self.attention, self.hidden
        require_some_weight("contrastive, prediction, attention and hidden", weights)
        return self
