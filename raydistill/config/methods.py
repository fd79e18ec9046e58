"""The method sections: one per way of distilling, told apart by `name`. How a section becomes parts is `training/methods/registry.py`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from raydistill.config.amd import AssistantSection
from raydistill.config.baselines import (
    DistilBERTSection,
    DKDSection,
    LogitsSection,
    NoneSection,
    PKDSection,
    TinyBERTSection,
)
from raydistill.config.boot import BootSection
from raydistill.config.dq import DQSection
from raydistill.config.education import EducationSection
from raydistill.config.homodistil import HomoDistilSection
from raydistill.config.method_section import MethodSection
from raydistill.config.mgsr import MGSRSection
from raydistill.config.minilm import MiniLMSection
from raydistill.config.reinforced import ReinforcedSection
from raydistill.config.self_feature import SelfFeatureSection
from raydistill.config.space import SearchedShare, bounds


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

    def idle(self) -> dict[str, str]:
        """See `MethodSection.idle`."""
        unused = self.preset == "reference" and self._asked("over_hidden")
        return {"over_hidden": "preset reference pools and normalises masked features instead"} if unused else {}

    @model_validator(mode="after")
    def _task_keeps_a_share(self) -> PMDSection:
        highest = bounds(self.alpha)[1] + bounds(self.beta)[1]
        if highest >= 1:
            raise ValueError(
                f"alpha + beta can reach {highest:g}; expected below 1, because the contrastive term would get weight "
                f"{1 - highest:g} and nothing would hold the student to the graph; lower one of them"
            )
        return self


Distilling = (
    PMDSection
    | MGSRSection
    | MiniLMSection
    | SelfFeatureSection
    | AssistantSection
    | ReinforcedSection
    | HomoDistilSection
    | LogitsSection
    | DKDSection
    | PKDSection
    | TinyBERTSection
    | DistilBERTSection
    | BootSection
    | EducationSection
    | DQSection
)
NO_PARTS = {
    "none": "none is training without a teacher and has nothing to add to the terms of others; take it out, or give it a lineage of its own under `compare`",
    "combined": "combined is a list of methods itself and has no terms of its own; write its parts in this list",
}
"""Why methods that there are cannot be parts of `combined`, where that is no matter of their terms."""
SingleMethod = Annotated[Distilling, Field(discriminator="name")]


class CombinedSection(MethodSection):
    """Several methods at once: the terms of all of them, and the contrastive term of the first."""

    name: Literal["combined"] = Field("combined", description="which method this section is of")
    parts: tuple[SingleMethod, ...] = Field(
        min_length=2,
        description="method sections, each as under `method`; each once, in any order but for the first, whose contrastive term it is; self-feature, which softens that term's labels, is the first",
    )

    @field_validator("parts", mode="before")
    @classmethod
    def _none_that_is_no_part(cls, given: Any) -> Any:
        for part in given if isinstance(given, (list, tuple)) else ():
            name = part.get("name") if isinstance(part, dict) else getattr(part, "name", None)
            reason = NO_PARTS.get(name) if isinstance(name, str) else None
            if reason is not None:
                raise ValueError(f"{name} is one of the parts; expected methods that go together, and {reason}")
        return given

    @model_validator(mode="after")
    def _each_once(self) -> CombinedSection:
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names):
            raise ValueError(
                f"parts are {', '.join(names)}; expected each method once, because its terms would be told apart by nothing"
            )
        return self

    @model_validator(mode="after")
    def _one_shape(self) -> CombinedSection:
        shaping = [part.name for part in self.parts if part.shaping]
        if len(shaping) > 1:
            raise ValueError(
                f"{' and '.join(shaping)} are parts; expected one method at most that changes the student's shape or number format, because each would change "
                "what the other has changed; give them grades of their own, one below the other"
            )
        return self

    @model_validator(mode="after")
    def _softened_labels_are_of_the_first(self) -> CombinedSection:
        if "self-feature" in [part.name for part in self.parts[1:]]:
            raise ValueError(
                f"self-feature comes after {self.parts[0].name}; expected it first, because the contrastive term is the first part's, and its softened labels would be "
                "added to hard ones; put it first"
            )
        return self

    @model_validator(mode="after")
    def _none_that_stands_alone(self) -> CombinedSection:
        for part in self.parts:
            if part.alone:
                raise ValueError(
                    f"{part.name} is one of the parts; expected methods that go together, and {part.alone}; give it a lineage of its own under `compare`, or "
                    "take it out"
                )
        return self


def parts_of(method: Method) -> tuple[Method, ...]:
    """The methods that a method is made of: itself, or its parts."""
    return method.parts if isinstance(method, CombinedSection) else (method,)


def label_of(method: Method) -> str:
    """What a method is called among others: its name, or those of its parts."""
    return "+".join(part.name for part in parts_of(method))


def has_teacher(method: Method) -> bool:
    """Whether a method looks at a teacher at all, whatever a search chooses."""
    return not all(is_baseline(part) or isinstance(part, SelfFeatureSection) for part in parts_of(method))


def is_baseline(method: Method) -> bool:
    """Whether a method is what others of its shape are measured against: `none`, or a section that changes the shape and has no word of a teacher."""
    if isinstance(method, NoneSection):
        return True
    return bool(method.taught) and all(bounds(getattr(method, weight)) == (0, 0) for weight in method.taught)


def shape_of(method: Method) -> tuple[Any, ...]:
    """What a method sets of the student's shape and number format, to be held against another's; empty = nothing."""
    return tuple(value for part in parts_of(method) for value in part.shape())


def sees_masks(method: Method) -> bool:
    """Whether a method has a term that looks at masked texts of its own accord, rather than because all terms share the masked view."""
    return any(isinstance(part, PMDSection) and part.beta != 0 for part in parts_of(method))


def masks_itself(method: Method) -> bool:
    """Whether a method decides how much is masked: a grade's mask ratio then has no say."""
    return isinstance(method, BootSection)


Method = Annotated[Distilling | CombinedSection | NoneSection, Field(discriminator="name")]
METHOD_SECTIONS: dict[str, type[MethodSection]] = {
    "pmd": PMDSection,
    "mgsr": MGSRSection,
    "minilm": MiniLMSection,
    "self-feature": SelfFeatureSection,
    "amd": AssistantSection,
    "reinforced": ReinforcedSection,
    "homodistil": HomoDistilSection,
    "logits": LogitsSection,
    "dkd": DKDSection,
    "pkd": PKDSection,
    "tinybert": TinyBERTSection,
    "distilbert": DistilBERTSection,
    "boot": BootSection,
    "education": EducationSection,
    "dq": DQSection,
    "combined": CombinedSection,
    "none": NoneSection,
}
ADDED: dict[str, tuple[str, ...]] = {
    "education": ("teachers",),
    "amd": ("intermediate",),
    "mgsr": ("drawn",),
}
"""Of a method the values that came later than the method, and are empty where they are not asked for."""


def without_idle(method: dict[str, Any], mask_ratio: float) -> dict[str, Any]:
    """A written method without the weight that does nothing without masks: work that differs in it alone is equal."""
    # Without masks the masked-feature term is off, and its whole weight goes back to CE.
    idle = ("beta",) if method["name"] == "pmd" and mask_ratio == 0 else ()
    at_work = {name: value for name, value in method.items() if name not in idle}
    return (
        at_work | {"parts": [without_idle(part, mask_ratio) for part in method["parts"]]}
        if "parts" in method
        else at_work
    )


def as_first_written(method: dict[str, Any]) -> dict[str, Any]:
    """A written method without a word on what could not be asked for once and is not asked for: equal work keeps the fingerprint that it had before."""
    added = ADDED.get(method["name"], ())
    written = {name: value for name, value in method.items() if name not in added or value}
    return written | {"parts": [as_first_written(part) for part in method["parts"]]} if "parts" in method else written
