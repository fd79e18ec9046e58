"""Values that are left to the search: where it looks then, and where it has no place to look."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from raydistill.config.amd import AssistantSection
from raydistill.config.baselines import LogitsSection
from raydistill.config.boot import BootSection
from raydistill.config.dq import DQSection
from raydistill.config.education import EducationSection
from raydistill.config.method_section import SEARCH
from raydistill.config.methods import (
    METHOD_SECTIONS,
    CombinedSection,
    Method,
    as_first_written,
    is_baseline,
    shape_of,
)
from raydistill.config.minilm import MiniLMSection
from raydistill.config.space import Choice, LogUniform, Uniform, bounds, counts, is_distribution

SEARCHED = [(name, key) for name, section in METHOD_SECTIONS.items() for key in section.spaces]
REQUIRED: dict[str, dict[str, Any]] = {"homodistil": {"width": 12}}
"""What a section has no default for."""


@pytest.mark.parametrize(("name", "key"), SEARCHED)
def test_usual_space_is_one_that_the_value_may_have_and_has_its_default_in_it(name: str, key: str) -> None:
    """A space that the section itself refuses, or that cannot find what is there without a search."""
    section = METHOD_SECTIONS[name]
    value: Any = getattr(section.model_validate({"name": name, **REQUIRED.get(name, {}), key: SEARCH}), key)
    assert is_distribution(value)
    low, high = bounds(value)
    default = section.model_fields[key].default
    assert default is None or low <= default <= high


@pytest.mark.parametrize("name", [name for name in METHOD_SECTIONS if name not in ("none", "combined")])
def test_every_method_has_something_to_search(name: str) -> None:
    """All of it at once, too: weights that together leave the task nothing would be refused."""
    spaces = METHOD_SECTIONS[name].spaces
    assert spaces
    METHOD_SECTIONS[name].model_validate({"name": name, **REQUIRED.get(name, {}), **dict.fromkeys(spaces, SEARCH)})


def test_words_stand_for_the_usual_space() -> None:
    """A space that is not the one its page names."""
    section = LogitsSection.model_validate({"alpha": SEARCH, "temperature": SEARCH})
    assert section.alpha == Uniform(uniform=(0.1, 0.9))
    assert section.temperature == LogUniform(log_uniform=(1.0, 10.0))


def test_value_without_a_usual_space_is_refused() -> None:
    """A word that is taken for a value."""
    with pytest.raises(
        ValidationError, match="divergence is search, and no space is usual for it; expected one of alpha"
    ):
        LogitsSection.model_validate({"divergence": SEARCH})


OF_ITS_SHAPE = ("relation_heads", "teacher_layer", "groups", "width", "intermediate")
"""Counts and layers, which have to fit the encoder: no space is usual for all."""
UNITS = ("contrastive", "bootstrap")
"""Weights that the other ones of a method are held against: Adam's steps do not tell a common factor."""


@pytest.mark.parametrize("name", METHOD_SECTIONS)
def test_what_can_be_searched_has_a_usual_space_or_a_reason(name: str) -> None:
    """A number of a method that nobody thought of when its spaces were written."""
    for key, field in METHOD_SECTIONS[name].model_fields.items():
        if "Choice[" in str(field.annotation) and key not in METHOD_SECTIONS[name].spaces:
            assert key in (*OF_ITS_SHAPE, *UNITS), f"{name}.{key}"


@pytest.mark.parametrize(
    ("section", "idle"),
    [
        ({"name": "logits", "divergence": "mse", "temperature": 2}, ["temperature"]),
        ({"name": "logits", "divergence": "mse", "temperature": SEARCH}, ["temperature"]),
        ({"name": "logits", "divergence": "mse", "temperature": {"choice": [4]}}, []),
        ({"name": "logits", "divergence": "mse"}, []),
        ({"name": "logits", "temperature": 2}, []),
        ({"name": "reinforced", "objective": "mse", "temperature": SEARCH}, ["temperature"]),
        ({"name": "pmd", "preset": "reference", "over_hidden": "sum"}, ["over_hidden"]),
        ({"name": "pmd", "over_hidden": "sum"}, []),
    ],
)
def test_values_that_change_nothing_are_known(section: dict[str, Any], idle: list[str]) -> None:
    """A search that tries equal work again and again without a word, or a word on what is at work."""
    assert list(METHOD_SECTIONS[section["name"]].model_validate(section).idle()) == idle


def test_path_of_noise_has_room_for_a_step() -> None:
    """A student that is only ever taught at time 0, by its teacher alone."""
    assert BootSection.model_validate({"t_max": 0.3, "step": 0.3}).step == 0.3
    with pytest.raises(ValidationError, match=r"step is 0.4 and t_max 0.3; expected a step of at most t_max"):
        BootSection.model_validate({"t_max": 0.3, "step": 0.4})


def test_counts_that_are_searched_are_whole_numbers() -> None:
    """Half a head; or a search among counts of which one cannot be."""
    section = MiniLMSection.model_validate({"variant": "minilmv2", "relation_heads": {"choice": [6, 12]}})
    assert counts(section.relation_heads) == (6, 12)
    for wrong in ({"choice": [6, 0]}, {"uniform": [2, 6]}, 1.5):
        with pytest.raises(ValidationError, match="relation_heads"):
            MiniLMSection.model_validate({"variant": "minilmv2", "relation_heads": wrong})
    with pytest.raises(ValidationError, match="relation_heads is 6 or 12, and variant minilm"):
        MiniLMSection.model_validate({"relation_heads": {"choice": [6, 12]}})


def test_bits_that_are_searched_are_among_those_there_are() -> None:
    """A search that finds three bits, which nothing can be rounded to."""
    section = DQSection.model_validate({"weight_bits": SEARCH, "activation_bits": {"choice": [8, 32]}})
    assert section.weight_bits == Choice(choice=(2, 8))
    assert section.activation_bits == Choice(choice=(8, 32))
    for wrong in ({"choice": [2, 3]}, {"uniform": [2, 8]}, 4):
        with pytest.raises(ValidationError, match="weight_bits"):
            DQSection.model_validate({"weight_bits": wrong})


def test_teachers_of_parts_fix_how_many_parts_there_are() -> None:
    """A search that finds three parts for two teachers."""
    with pytest.raises(ValidationError, match="teachers are 2, and stages is 2 or 3; expected a checkpoint for each"):
        EducationSection.model_validate({"stages": SEARCH, "teachers": ["a", "b"]})


def test_softened_labels_come_first() -> None:
    """Hard labels of weight 1 and softened ones beside them: a target that sums to more than 1."""
    with pytest.raises(ValidationError, match="self-feature comes after tinybert; expected it first"):
        CombinedSection.model_validate({"parts": [{"name": "tinybert"}, {"name": "self-feature"}]})
    assert CombinedSection.model_validate({"parts": [{"name": "self-feature"}, {"name": "tinybert"}]})


def test_what_is_not_asked_for_is_written_as_before_it_could_be() -> None:
    """A run that began earlier and is refused as another campaign."""
    assert "teachers" not in as_first_written(EducationSection().model_dump(mode="json"))
    named = EducationSection(stages=1, teachers=("a",)).model_dump(mode="json")
    assert as_first_written(named) == named
    assert "intermediate" not in as_first_written(AssistantSection().model_dump(mode="json"))
    narrower = AssistantSection(intermediate=(8,)).model_dump(mode="json")
    assert as_first_written(narrower) == narrower
    combined = CombinedSection.model_validate({"parts": [{"name": "mgsr"}, {"name": "tinybert"}]})
    assert "drawn" not in as_first_written(combined.model_dump(mode="json"))["parts"][0]
    pruned = {"name": "homodistil", "intermediate": None, "teachers": []}
    assert as_first_written(pruned) == pruned


SMALL = {"name": "dq", "prediction": 0, "attention": 0, "hidden": 0}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"name": "none"}, True),
        (SMALL, True),
        (SMALL | {"weight_bits": 2}, True),
        (SMALL | {"hidden": {"choice": [0, 1]}}, False),
        ({"name": "dq", "prediction": 0, "attention": 0}, False),
        ({"name": "self-feature"}, False),
        ({"name": "combined", "parts": [{"name": "pmd"}, SMALL]}, False),
    ],
)
def test_baseline_is_told_nothing_in_any_trial(section: dict[str, Any], expected: bool) -> None:
    """A student that some trial teaches after all, or that teaches itself, as what others are measured against."""
    assert is_baseline(TypeAdapter(Method).validate_python(section)) is expected


def test_shape_is_that_of_the_part_that_has_one() -> None:
    """PMD in eight bits taken for PMD, or for eight bits of another kind."""

    def shape(**section: Any) -> tuple[Any, ...]:
        return shape_of(TypeAdapter(Method).validate_python(section))

    assert shape(name="pmd") == shape(name="none") == ()
    assert shape(name="combined", parts=[{"name": "pmd"}, SMALL]) == shape(**SMALL) == (8, 8, 8)
    assert shape(name="dq", embedding_bits=8) == shape(name="dq") != shape(name="dq", activation_bits=32)
    assert shape(name="homodistil", width=288) == (288, None)
