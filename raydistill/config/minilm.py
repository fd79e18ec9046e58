"""The section of MiniLM and MiniLMv2."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from raydistill.config.method_section import MethodSection
from raydistill.config.space import SearchedCount, SearchedIndex, SearchedPositive, SearchedWeight, counts


class MiniLMSection(MethodSection):
    """Self-attention distillation: CE + the relations between the tokens of a text in one layer, by KL, head by head."""

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {"relation": {"log_uniform": [0.1, 10.0]}}

    name: Literal["minilm"] = Field("minilm", description="which method this section is of")
    variant: Literal["minilm", "minilmv2"] = Field(
        "minilm",
        description="minilm: attention distributions and relations of values; minilmv2: relations of queries, of keys and of values",
    )
    contrastive: SearchedWeight = Field(
        1.0, description="weight of the contrastive term; 0 = the relations alone, as published"
    )
    relation: SearchedPositive = Field(1.0, description="weight of each kind of relation")
    relation_heads: SearchedCount | None = Field(
        None,
        description="minilmv2 only: heads that queries, keys and values are divided into; null = the encoder's",
    )
    teacher_layer: SearchedIndex | None = Field(
        None,
        description="layer of the teacher to learn from, counted from 0; null = its last; always the student's last learns",
    )

    @model_validator(mode="after")
    def _heads_of_relations(self) -> MiniLMSection:
        if self.variant == "minilm" and self.relation_heads is not None:
            raise ValueError(
                f"relation_heads is {' or '.join(map(str, counts(self.relation_heads)))}, and variant minilm compares the models' own attention heads; set variant to minilmv2, or "
                "leave relation_heads out"
            )
        return self
