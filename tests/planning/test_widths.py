"""How wide the models of a ladder are: what does not fit is refused, what fits is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TeacherReference
from raydistill.errors import CapabilityError
from raydistill.planning.ground import Ground
from raydistill.planning.preflight import preflight

Maker = Callable[..., CampaignConfig]
PRUNED = {"name": "homodistil", "width": 576}
BELOW = {"layers": 3}


@pytest.mark.parametrize(
    ("grades", "match"),
    [
        ([{"layers": 6, "method": PRUNED}], "begins as its teacher, and this one starts from the pre-trained encoder"),
        ([{"layers": 6, "init": "teacher", "method": {**PRUNED, "width": 1024}}], "width is 1024, and .* 768 hidden"),
        ([{"layers": 6, "init": "teacher", "method": {**PRUNED, "width": 500}}], "width is 500, .* 12 heads"),
        (
            [{"layers": 6, "init": "teacher", "method": {**PRUNED, "width": {"choice": [576, 500]}}}],
            "width is 500, .* 12 heads",
        ),
        (
            [{"layers": 6, "init": "teacher", "method": {**PRUNED, "intermediate": {"choice": [1024, 4096]}}}],
            "intermediate is 4096, .* 3072 intermediate",
        ),
        (
            [
                {"layers": 6, "init": "teacher", "method": {**PRUNED, "width": {"choice": [576, 288]}}},
                {**BELOW, "init": "teacher", "method": {**PRUNED, "width": 300}},
            ],
            "grade 2-layers3: method.width is 300, and the student begins with 288",
        ),
        (
            [
                {"layers": 6, "init": "teacher", "method": {**PRUNED, "intermediate": {"choice": [2304, 1024]}}},
                {**BELOW, "init": "teacher", "method": {**PRUNED, "width": 240, "intermediate": 2000}},
            ],
            "intermediate is 2000, and the student begins with 1024",
        ),
        (
            [
                {
                    "layers": 6,
                    "init": "teacher",
                    "method": {
                        "name": "combined",
                        "parts": [
                            {**PRUNED, "width": {"choice": [576, 288]}},
                            {"name": "minilm", "variant": "minilmv2", "relation_heads": {"choice": [12, 64]}},
                        ],
                    },
                }
            ],
            "relation_heads is 64, which does not divide all widths: .* 288",
        ),
        (
            [{"layers": 6, "init": "teacher", "method": {**PRUNED, "intermediate": 4096}}],
            "intermediate is 4096, .* 3072 intermediate",
        ),
        (
            [
                {"layers": 6, "init": "teacher", "method": PRUNED},
                {**BELOW, "init": "teacher", "method": {**PRUNED, "width": 600}},
            ],
            "grade 2-layers3: method.width is 600, and the student begins with 576",
        ),
        (
            [
                {"layers": 6, "init": "teacher", "method": PRUNED},
                {**BELOW, "init": "teacher", "method": {**PRUNED, "width": 240, "intermediate": 2400}},
            ],
            "intermediate is 2400, and the student begins with 2304",
        ),
        (
            [{"layers": 6, "init": "teacher", "method": PRUNED}, {**BELOW, "mask_ratio": 0.1}],
            "method pmd compares masked features unit by unit, and student and teacher are 576 and 768",
        ),
        (
            # With the layers of its teacher it fits, with the encoder's it does not.
            [
                {"layers": 6, "init": "teacher", "method": PRUNED},
                {**BELOW, "init": {"choice": ["teacher", "pretrained"]}, "mask_ratio": 0.1, "method": {"name": "pmd", "beta": "search"}},
            ],
            "method pmd compares masked features unit by unit, and student and teacher are 576 and 768",
        ),
        (
            # Each of the two may be 0, and with the other one at 0 it fits.
            [
                {"layers": 6, "init": "teacher", "method": PRUNED},
                {**BELOW, "mask_ratio": {"uniform": [0, 0.2]}, "method": {"name": "pmd", "beta": "search"}},
            ],
            "method pmd compares masked features unit by unit, and student and teacher are 576 and 768",
        ),
        (
            [{"layers": 6, "init": "teacher", "method": PRUNED}, {**BELOW, "method": {"name": "pkd"}}],
            "method pkd compares pooled states unit by unit",
        ),
        (
            [{"layers": 6, "init": "teacher", "method": PRUNED}, {**BELOW, "method": {"name": "distilbert"}}],
            "method distilbert compares directions of states unit by unit",
        ),
        (
            [
                {"layers": 6, "init": "teacher", "method": PRUNED},
                {**BELOW, "method": {"name": "minilm", "variant": "minilmv2", "relation_heads": 256}},
            ],
            "relation_heads is 256, which does not divide all widths",
        ),
        (
            [{"layers": 6, "init": "teacher", "method": {"name": "combined", "parts": [PRUNED, {"name": "pkd"}]}}],
            "method pkd compares pooled states",
        ),
        (
            [{"layers": 6, "init": "teacher", "method": {"name": "combined", "parts": [{"name": "self-feature"}, PRUNED]}}],
            "remembers vectors as wide as the student was",
        ),
        (
            [
                {"layers": 6, "init": {"choice": ["teacher", "pretrained"]}, "method": {"name": "none"}},
                {**BELOW, "init": {"choice": ["teacher", "pretrained"]}, "method": PRUNED},
            ],
            "grade 2-layers3: method homodistil prunes",
        ),
    ],
)  # fmt: skip
def test_widths_that_do_not_fit_are_refused(campaign: Maker, grades: list[dict[str, Any]], match: str) -> None:
    """A ladder that fails at its third grade, or at the last step of one."""
    ground = Ground("d", "e", 12, encoder_width=768, encoder_intermediate=3072, encoder_heads=12)
    with pytest.raises(CapabilityError, match=match):
        preflight(campaign(*grades), ground)


@pytest.mark.parametrize(
    "below",
    [
        {"method": {"name": name}}
        for name in ("none", "logits", "dkd", "tinybert", "minilm", "mgsr", "self-feature")
    ]
    + [
        {"mask_ratio": 0.0},
        {"mask_ratio": 0.1, "method": {"name": "pmd", "beta": 0.0}},
        {"mask_ratio": 0.1, "init": "teacher"},
        {"method": {"name": "pkd"}, "init": "teacher"},
        {"method": {"name": "distilbert"}, "init": "teacher"},
        {"method": {"name": "distilbert", "cosine": 0}},
        {"method": {**PRUNED, "width": 288}, "init": "teacher"},
        {"method": {"name": "minilm", "variant": "minilmv2", "relation_heads": 48}},
        # Divides 576 and not 768.
        {"method": {"name": "minilm", "variant": "minilmv2", "relation_heads": 36}, "init": "teacher"},
        {"method": {"name": "self-feature", "groups": 36}, "init": "teacher"},
        {"method": {"name": "self-feature", "groups": 256}},
    ],
    ids=str,
)  # fmt: skip
def test_methods_that_need_no_equal_widths_stand_below_a_narrow_teacher(campaign: Maker, below: dict[str, Any]) -> None:
    """A refusal of what works."""
    ground = Ground("d", "e", 12, encoder_width=768, encoder_intermediate=3072, encoder_heads=12)
    above = {"layers": 6, "init": "teacher", "method": PRUNED}
    assert len(preflight(campaign(above, {**BELOW, **below}), ground)) == 3


@pytest.mark.parametrize("searched", [{"width": {"choice": [576, 288]}}, {"intermediate": {"choice": [2304, 1024]}}])
def test_width_that_is_searched_teaches_under_no_pipelined_schedule(campaign: Maker, searched: dict[str, Any]) -> None:
    """A teacher of 288 units that follows one of 576 in the middle of a student's training: who starts from it goes on with weights of another shape."""
    ground = Ground("d", "e", 12, encoder_width=768, encoder_intermediate=3072, encoder_heads=12)
    above = {"layers": 6, "init": "teacher", "method": {**PRUNED, **searched}}
    below = {**BELOW, "method": {"name": "logits"}}
    trials = {"search": {"trials": 2}}
    assert preflight(campaign(above, below, **trials), ground)
    with pytest.raises(
        CapabilityError, match=r"1-layers6 searches 2 trials, .* different widths.* the teacher of 2-layers3, "
    ):
        preflight(campaign(above, below, **trials, schedule={"name": "pipelined"}), ground)


def test_given_teacher_sets_the_width(campaign: Maker) -> None:
    """A student of 768 units that is held to a given teacher of 576, unit by unit."""
    given = TeacherReference(path="/t", digest="a")
    sizes = {"encoder_width": 768, "given_teacher_width": 576, "given_teacher_intermediate": 2304}
    narrow = Ground("d", "e", 12, given, 6, **sizes)  # type: ignore[arg-type]
    checkpoint = {"checkpoint": "/t"}
    with pytest.raises(CapabilityError, match="are 576 and 768 units wide"):
        preflight(campaign({"layers": 3, "method": {"name": "pkd"}}, teacher=checkpoint), narrow)
    with pytest.raises(CapabilityError, match="the student begins with 576 hidden units"):
        preflight(
            campaign({"layers": 3, "init": "teacher", "method": {**PRUNED, "width": 768}}, teacher=checkpoint), narrow
        )


OTHER = Ground(
    "d",
    "e",
    12,
    TeacherReference(path="/t", digest="a"),
    6,
    encoder_width=768,
    encoder_intermediate=3072,
    encoder_heads=16,
    given_teacher_width=768,
    given_teacher_intermediate=3072,
    given_teacher_heads=12,
)
"""A given teacher of another encoder, as wide and of other heads."""
GIVEN = {"teacher": {"checkpoint": "/t"}}
SEEN = "the student has 16 heads and its teacher 12"
DIVIDED = {"name": "minilm", "variant": "minilmv2"}


@pytest.mark.parametrize(
    ("method", "remedy"),
    [
        ({"name": "minilm"}, "variant to minilmv2"),
        ({"name": "tinybert"}, "method.attention to 0"),
        ({"name": "tinybert", "attention": "search"}, "method.attention to 0"),
        ({"name": "tinybert", "attention": {"choice": [0.0, 1.0]}}, "method.attention to 0"),
        ({"name": "dq"}, "method.attention to 0"),
        ({"name": "dq", "attention": {"uniform": [0.0, 1.0]}}, "method.attention to 0"),
        ({"name": "combined", "parts": [{"name": "logits"}, {"name": "minilm"}]}, "variant to minilmv2"),
    ],
    ids=str,
)
def test_heads_that_cannot_be_compared_are_refused(campaign: Maker, method: dict[str, Any], remedy: str) -> None:
    """A trial that fails below a given teacher of another encoder; or below a student of that teacher, hours after the campaign began."""
    below = {**BELOW, "method": method}
    with pytest.raises(CapabilityError, match=f"grade 1-layers3: .* head by head, and {SEEN}; set .*{remedy}"):
        preflight(campaign(below, **GIVEN), OTHER)
    begun = {"layers": 4, "init": "teacher", "method": {"name": "logits"}}
    with pytest.raises(CapabilityError, match=f"grade 2-layers3: .* {SEEN}"):
        preflight(campaign(begun, below, **GIVEN), OTHER)
    either = {**begun, "init": {"choice": ["pretrained", "teacher"]}}
    with pytest.raises(CapabilityError, match=f"grade 2-layers3: .* {SEEN}"):
        preflight(campaign(either, below, **GIVEN), OTHER)
    assert preflight(campaign({**begun, "init": "pretrained"}, below, **GIVEN), OTHER)
    assert preflight(campaign(begun, {**below, "init": "teacher"}, **GIVEN), OTHER)


@pytest.mark.parametrize(
    "method",
    [{"name": name} for name in ("none", "logits", "dkd", "pkd", "pmd", "mgsr", "self-feature", "reinforced", "boot", "amd")]
    + [
        DIVIDED,
        {**DIVIDED, "relation_heads": 48},
        {"name": "tinybert", "attention": 0.0},
        {"name": "dq", "attention": 0.0},
        {"name": "education", "stages": 2},
    ],
    ids=str,
)  # fmt: skip
def test_methods_that_compare_no_heads_stand_below_a_teacher_of_others(campaign: Maker, method: dict[str, Any]) -> None:
    """A refusal of what works."""
    assert preflight(campaign({**BELOW, "mask_ratio": 0.1, "method": method}, **GIVEN), OTHER)


@pytest.mark.parametrize(
    "values", [{"width": 588}, {"width": 588, "attention": "search"}, {"width": {"choice": [588, 576]}}], ids=str
)
def test_pruned_student_keeps_its_teachers_heads(campaign: Maker, values: dict[str, Any]) -> None:
    """A width that is held to heads which the student does not have: 588 units are 12 heads of 49, and no 16."""
    first = {"layers": 6, "init": "teacher", "method": {**PRUNED, **values}}
    assert preflight(campaign(first, {**BELOW, "init": "teacher", "method": {**PRUNED, "width": 300}}, **GIVEN), OTHER)
    for odd in (592, {"choice": [588, 592]}):
        with pytest.raises(CapabilityError, match="width is 592, which the student's 12 heads do not divide"):
            preflight(campaign({**first, "method": {**PRUNED, "width": odd}}, **GIVEN), OTHER)


def test_students_heads_divide_its_teachers_width_or_others_are_asked_for(campaign: Maker) -> None:
    """Relation heads that are left out are the student's, and a teacher of other heads need not have a width of so many."""
    ground = replace(OTHER, given_teacher_width=588)
    below = {**BELOW, "method": DIVIDED}
    with pytest.raises(
        CapabilityError, match=r"relation_heads is left out, and the student's 16 heads do not divide .*a divisor of 12"
    ):
        preflight(campaign(below, **GIVEN), ground)
    assert preflight(campaign({**BELOW, "method": {**DIVIDED, "relation_heads": 6}}, **GIVEN), ground)
    with pytest.raises(CapabilityError, match=r"relation_heads is 16, which .*a divisor of 12"):
        preflight(campaign({**BELOW, "method": {**DIVIDED, "relation_heads": 16}}, **GIVEN), ground)


def test_heads_that_are_searched_teach_under_no_pipelined_schedule(campaign: Maker) -> None:
    """A student of 12 heads that goes on after a crash with the 16 of its newest teacher: the weights fit, and mean something else."""
    above = {"layers": 6, "init": {"choice": ["teacher", "pretrained"]}, "method": {"name": "logits"}}
    below = {**BELOW, "init": "teacher", "method": {"name": "logits"}}
    assert preflight(campaign(above, below, **GIVEN, search={"trials": 2}), OTHER)
    with pytest.raises(CapabilityError, match="different widths or numbers of heads"):
        preflight(campaign(above, below, **GIVEN, search={"trials": 2}, schedule={"name": "pipelined"}), OTHER)
