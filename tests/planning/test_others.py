"""Who teaches beside the grade above: the grades further up, and checkpoints that a method names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from raydistill.config.other_teachers import other_places, relocated
from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.planning.grades import grade_plans, lineages_of, trial_config
from raydistill.planning.ground import Ground
from raydistill.planning.preflight import preflight
from raydistill.planning.records import Promotion
from raydistill.planning.schedule import earlier_teachers
from raydistill.planning.state import CampaignState

Maker = Callable[..., CampaignConfig]


def reference(letter: str, path: str = "/there") -> TeacherReference:
    return TeacherReference(path=f"{path}/{letter}", digest=letter * 64)


ABOVE, TOP = reference("a"), reference("b")
GIVEN = {"one": reference("c"), "two": reference("f")}


def trial(
    config: CampaignConfig, ground: Ground, earlier: tuple[TeacherReference, ...] = (TOP,), grade: int = 2
) -> TrialConfig:
    plan = grade_plans(config, ground)[grade]
    return trial_config(config, lineages_of(config)[0], plan, {}, replace(ground, others=GIVEN), ABOVE, earlier)


def taught(campaign: Maker, **method: Any) -> CampaignConfig:
    return campaign({"layers": 6}, {"layers": 3}, method={"name": "reinforced", **method})


def letters(config: TrialConfig) -> str:
    return "".join(one.digest[0] for one in config.others)


def test_identities_of_trials_with_one_teacher_are_what_they_were(campaign: Maker, ground: Ground) -> None:
    """A run of an earlier release whose trials would all be trained again. The numbers are those of the release before there were several teachers."""
    grades = {"layers": 6, "mask_ratio": 0.1}, {"layers": 3, "method": {"name": "logits"}}
    config = campaign(*grades)
    [lineage] = lineages_of(config)
    found = [
        trial_config(config, lineage, plan, {}, ground, reference("a") if plan.index else None, (TOP,)).identity
        for plan in grade_plans(config, ground)
    ]
    assert found == ["c007b17983f9cd50", "13ee825663fa504e", "4b23a527b5c225f3"]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({}, "b"),
        ({"earlier": False}, ""),
        ({"teachers": ["two", "one"]}, "bfc"),
        ({"earlier": False, "teachers": ["one"]}, "c"),
    ],
)
def test_grades_further_up_teach_before_those_that_are_named(
    campaign: Maker, ground: Ground, method: dict[str, Any], expected: str
) -> None:
    """A ladder that forgets its upper grades, or a named checkpoint that never teaches."""
    assert letters(trial(taught(campaign, **method), ground)) == expected


def test_other_methods_have_one_teacher(campaign: Maker, ground: Ground) -> None:
    """A grade that is trained again because of a teacher it never looks at."""
    assert trial(campaign({"layers": 6}, {"layers": 3}, method={"name": "logits"}), ground).others == ()


def test_part_of_a_combined_method_has_its_teachers(campaign: Maker, ground: Ground) -> None:
    """Teachers that are lost among several methods."""
    parts = [{"name": "pmd"}, {"name": "reinforced", "teachers": ["one"]}]
    config = campaign({"layers": 6}, {"layers": 3}, method={"name": "combined", "parts": parts})
    found = trial(config, ground)
    assert letters(found) == "bc"
    assert found.method.parts[1].teachers == ()  # type: ignore[union-attr]
    assert other_places(config) == ("one",)


def test_no_teacher_is_there_twice(campaign: Maker, ground: Ground) -> None:
    """One teacher that counts twice: named, and a grade above besides."""
    same = {"one": ABOVE, "two": TOP}
    config = taught(campaign, teachers=["one", "two"])
    plan, [lineage] = grade_plans(config, ground)[2], lineages_of(config)
    found = trial_config(config, lineage, plan, {}, replace(ground, others=same), ABOVE, (TOP,))
    assert letters(found) == "b"


def test_identity_is_that_of_the_teachers_not_of_their_places(campaign: Maker, ground: Ground) -> None:
    """A moved checkpoint that is learnt from again, or another one that is taken for it; `earlier` where there is nothing earlier."""
    one, two = taught(campaign, teachers=["one"]), taught(campaign, teachers=["two"])
    moved = {"two": GIVEN["one"].model_copy(update={"path": "/elsewhere"})}
    assert trial(one, ground).identity != trial(two, ground).identity
    plan, [lineage] = grade_plans(two, ground)[2], lineages_of(two)
    again = trial_config(two, lineage, plan, {}, replace(ground, others=moved), ABOVE, (TOP,))
    assert again.identity == trial(one, ground).identity
    assert trial(one, ground, ()).identity != trial(one, ground).identity
    alone = taught(campaign, earlier=False, teachers=["one"])
    assert trial(one, ground, ()).identity == trial(alone, ground).identity


@pytest.mark.parametrize(
    ("schedule", "grade", "expected"),
    [
        ("sequential", 3, ["1", "0"]),
        ("sequential", 2, ["0"]),
        ("sequential", 1, []),
        ("sequential", 0, []),
        ("pipelined", 3, []),
        ("independent", 3, []),
    ],
)
def test_earlier_grades_are_those_above_the_one_above(schedule: Any, grade: int, expected: list[str]) -> None:
    """The direct teacher twice, the grade itself, or one that has not ended."""
    state = CampaignState(grades=("0", "1", "2", "3"))
    for number in range(3):
        state.promotions["main", number] = Promotion("main", number, "id", f"/{number}", str(number), 1, {})
        state.promotions["other", number] = Promotion("other", number, "id", "/x", "x", 1, {})
    assert [one.digest for one in earlier_teachers(state, "main", grade, schedule)] == expected


@pytest.mark.parametrize(("schedule", "told"), [("sequential", 0), ("pipelined", 1), ("independent", 1)])
def test_schedules_without_earlier_teachers_are_told(
    campaign: Maker, ground: Ground, caplog: pytest.LogCaptureFixture, schedule: str, told: int
) -> None:
    """A ladder of which everybody believes that all its grades teach."""
    config = campaign(
        {"layers": 6}, {"layers": 3}, method={"name": "reinforced"}, schedule={"name": schedule}, resources={}
    )
    with caplog.at_level(logging.INFO, "raydistill.planning.hints"):
        preflight(config, ground)
    assert len([record for record in caplog.records if "no earlier grades" in record.getMessage()]) == told


def test_every_teacher_of_a_campaign_is_found_and_moved(campaign: Maker) -> None:
    """A checkpoint that is verified only when the grades above are trained, or a path that means another place on the cluster."""
    parts = [{"name": "pmd"}, {"name": "reinforced", "teachers": ["c", "a"]}]
    grades = {"layers": 6, "method": {"name": "reinforced", "teachers": ["b", "a"]}}, {"layers": 3}
    config = campaign(*grades, method={"name": "combined", "parts": parts})
    assert other_places(config) == ("c", "a", "b")
    assert other_places(relocated(config, lambda place: f"/x/{place}")) == ("/x/c", "/x/a", "/x/b")
    compared = campaign(
        {"layers": 3}, compare={"methods": [{"name": "reinforced", "teachers": ["d"]}, {"name": "pmd"}]}
    )
    assert other_places(relocated(compared, str.upper)) == ("D",)
    plain = campaign()
    assert relocated(plain, str.upper) is plain


def school(campaign: Maker, *teachers: str, **grade: Any) -> CampaignConfig:
    method = {"name": "education", "stages": 3, "teachers": list(teachers)}
    return campaign({"layers": 6}, {"layers": 3, **grade}, method=method)


def test_each_part_has_its_teacher_at_its_place(campaign: Maker, ground: Ground) -> None:
    """Numbers that shift because a teacher is there twice, or is the grade above: parts that are taught by one another's teachers."""
    assert letters(trial(school(campaign, "two", "one", "two"), ground)) == "fcf"
    plan, config = grade_plans(school(campaign), ground)[2], school(campaign, "one", "two", "one")
    same = replace(ground, others={"one": ABOVE, "two": GIVEN["two"]})
    found = trial_config(config, lineages_of(config)[0], plan, {}, same, ABOVE, (TOP,))
    assert letters(found) == "afa"
    assert found.method.teachers == ()  # type: ignore[union-attr]
    assert letters(trial(school(campaign), ground)) == ""


def test_grade_above_has_a_part_only_where_students_start_from_it(campaign: Maker, ground: Ground) -> None:
    """A trial that is trained again because of a teacher that gave nothing, or that has no layers to start from."""
    named = "one", "two", "one"
    assert trial(school(campaign, *named), ground).teacher is None
    assert trial(school(campaign, *named, init="teacher"), ground).teacher == ABOVE
    assert trial(school(campaign), ground).teacher == ABOVE


def test_identity_holds_the_teachers_of_the_parts_in_their_order(campaign: Maker, ground: Ground) -> None:
    """Trials of other teachers, or of the same with their parts exchanged, taken for equal work; or a moved checkpoint for another."""
    named = [("one", "two", "one"), ("two", "one", "one"), ("one", "one", "two"), ()]
    identities = [trial(school(campaign, *places), ground).identity for places in named]
    assert len(set(identities)) == 4
    # That of the release before parts could have teachers of their own.
    before = trial(campaign({"layers": 6}, method={"name": "education"}), ground, grade=1)
    assert before.identity == "6dafe1a49e9a020e"
    config = school(campaign, "one", "there", "one")
    moved = {"one": GIVEN["one"], "there": GIVEN["two"].model_copy(update={"path": "/elsewhere"})}
    plan, [lineage] = grade_plans(config, ground)[2], lineages_of(config)
    again = trial_config(config, lineage, plan, {}, replace(ground, others=moved), ABOVE, (TOP,))
    assert again.identity == identities[0]


def test_teachers_of_parts_are_found_and_moved(campaign: Maker) -> None:
    """A named checkpoint that is neither verified nor fetched, or a part that loses its own on the way."""
    config = school(campaign, "c", "a", "c")
    assert other_places(config) == ("c", "a")
    assert relocated(config, str.upper).method.teachers == ("C", "A", "C")  # type: ignore[union-attr]
