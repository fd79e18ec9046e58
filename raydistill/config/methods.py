"""The method sections: one per way of distilling, told apart by `name`. How a section becomes parts is `training/methods.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from raydistill.config.baselines import DKDSection, LogitsSection, NoneSection, PKDSection, TinyBERTSection
from raydistill.config.method_section import MethodSection
from raydistill.config.pruning import HomoDistilSection
from raydistill.config.space import (
    SearchedPositive,
    SearchedShare,
    SearchedWeight,
    bounds,
    require_some_weight,
)


class PMDSection(MethodSection):
    """Progressive distillation with masked generation features: (1 - alpha - beta) CE + alpha SCORE + beta MGFD."""

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        "alpha": {"uniform": [0.0, 0.45]},
        "beta": {"uniform": [0.0, 0.45]},
    }

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


class MGSRSection(MethodSection):
    """Multi-granularity semantic revision: CE + the divergence on the dense part of the teacher's scores along revised lists + the correlation of neighbouring tokens."""

    spaces: ClassVar[dict[str, dict[str, list[float]]]] = {
        "clipped": {"log_uniform": [0.1, 3.0]},
        "span": {"log_uniform": [0.1, 3.0]},
    }

    name: Literal["mgsr"] = Field("mgsr", description="which method this section is of")
    contrastive: SearchedWeight = Field(1.0, description="weight of the contrastive term")
    clipped: SearchedWeight = Field(1.0, description="weight of the clipped divergence")
    span: SearchedWeight = Field(1.0, description="weight of the span term")
    length: int = Field(
        10, ge=1, description="places of the student's list, at each of which it is compared with its teacher"
    )
    mass: float = Field(
        0.7,
        gt=0,
        lt=1,
        description="share of the teacher's probability that the learned clipping has to keep; below it costs",
    )
    least: int = Field(2, ge=1, description="candidates that are kept however narrow the clipping is")
    span_distance: Literal["cosine", "squares"] = Field(
        "cosine",
        description="of the products of neighbouring tokens' distributions; squares shrink with the number of candidates",
    )

    @model_validator(mode="after")
    def _some_weight(self) -> MGSRSection:
        require_some_weight("contrastive, clipped and span", (self.contrastive, self.clipped, self.span))
        return self


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
    groups: int | None = Field(
        None,
        ge=1,
        description="channels are averaged in so many groups before they are compared; null = each by itself",
    )
    projection: bool = Field(False, description="bring shallow states to the deep ones through a learned projection")


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
    relation_heads: int | None = Field(
        None,
        ge=1,
        description="minilmv2 only: heads that queries, keys and values are divided into; null = the encoder's",
    )
    teacher_layer: int | None = Field(
        None,
        ge=0,
        description="layer of the teacher to learn from, counted from 0; null = its last; always the student's last learns",
    )

    @model_validator(mode="after")
    def _heads_of_relations(self) -> MiniLMSection:
        if self.variant == "minilm" and self.relation_heads is not None:
            raise ValueError(
                f"relation_heads is {self.relation_heads}, and variant minilm compares the models' own attention heads; set variant to minilmv2, or "
                "leave relation_heads out"
            )
        return self


Distilling = (
    PMDSection
    | MGSRSection
    | MiniLMSection
    | SelfFeatureSection
    | HomoDistilSection
    | LogitsSection
    | DKDSection
    | PKDSection
    | TinyBERTSection
)
SingleMethod = Annotated[Distilling, Field(discriminator="name")]


class CombinedSection(MethodSection):
    """Several methods at once: the terms of all of them, and the contrastive term of the first."""

    name: Literal["combined"] = Field("combined", description="which method this section is of")
    parts: tuple[SingleMethod, ...] = Field(
        min_length=2,
        description="method sections, each as under `method`; each once, in any order but for the first, whose contrastive term it is",
    )

    @model_validator(mode="after")
    def _each_once(self) -> CombinedSection:
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names):
            raise ValueError(
                f"parts are {', '.join(names)}; expected each method once, because its terms would be told apart by nothing"
            )
        return self


def parts_of(method: Method) -> tuple[Method, ...]:
    """The methods that a method is made of: itself, or its parts."""
    return method.parts if isinstance(method, CombinedSection) else (method,)


def label_of(method: Method) -> str:
    """What a method is called among others: its name, or those of its parts."""
    return "+".join(part.name for part in parts_of(method))


def has_teacher(method: Method) -> bool:
    """Whether a method looks at a teacher at all."""
    return not all(isinstance(part, (NoneSection, SelfFeatureSection)) for part in parts_of(method))


def sees_masks(method: Method) -> bool:
    """Whether a method has a term that looks at masked texts of its own accord, rather than because all terms share the masked view."""
    return any(isinstance(part, PMDSection) and part.beta != 0 for part in parts_of(method))


Method = Annotated[Distilling | CombinedSection | NoneSection, Field(discriminator="name")]
METHOD_SECTIONS: dict[str, type[MethodSection]] = {
    "pmd": PMDSection,
    "mgsr": MGSRSection,
    "minilm": MiniLMSection,
    "self-feature": SelfFeatureSection,
    "homodistil": HomoDistilSection,
    "logits": LogitsSection,
    "dkd": DKDSection,
    "pkd": PKDSection,
    "tinybert": TinyBERTSection,
    "combined": CombinedSection,
    "none": NoneSection,
}
