from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.errors import CapabilityError
from raydistill.planning.grades import grade_plans, lineages_of, possible_layers, trial_config
from raydistill.planning.ground import Ground
from raydistill.planning.preflight import preflight
from raydistill.planning.promotion import candidates, choose
from raydistill.planning.records import LAYERS, MRR, TrialRecord
from raydistill.planning.schedule import ready, worth_announcing
from raydistill.planning.state import CampaignState
from raydistill.planning.widths import sizes_of

Maker = Callable[..., CampaignConfig]
AMD = {"name": "amd"}
PRUNED = {"name": "homodistil", "width": 576, "intermediate": 1024}


def grade(layers: int, **more: Any) -> dict[str, Any]:
    return {"layers": layers, **more}


def amd(layers: int, **method: Any) -> dict[str, Any]:
    return grade(layers, method={**AMD, **method})


def resolve(config: CampaignConfig, ground: Ground, number: int) -> TrialConfig:
    teacher = TeacherReference(path="/t", digest="a" * 64)
    return trial_config(config, lineages_of(config)[0], grade_plans(config, ground)[number], {}, ground, teacher)


@pytest.mark.parametrize(
    ("grades", "depths", "student"),
    [
        ([amd(9), grade(6)], (7, 8, 9), 6),
        ([amd(4)], (1, 2, 3, 4), 0),
        ([amd(9, student_layers=7), grade(3)], (8, 9), 7),
        ([amd(9, depths=[9, 5]), grade(3)], (5, 9), 3),
    ],
)
def test_trial_says_who_competes(
    campaign: Maker, ground: Ground, grades: list[dict[str, Any]], depths: tuple[int, ...], student: int
) -> None:
    """Candidates that nobody named, or a setting that is lost on the way."""
    trial = resolve(campaign(*grades), ground, 1)
    method = trial.method.model_dump()
    assert (method["depths"], method["student_layers"]) == (depths, student)


def test_trials_that_choose_among_others_are_others(campaign: Maker, ground: Ground) -> None:
    """Trials of one identity that end with different assistants, because the grades below them differ."""
    found = [resolve(campaign(amd(9), grade(below)), ground, 1).identity for below in (6, 7)]
    assert found[0] != found[1]
    named = resolve(campaign(amd(9, depths=[9, 8, 7], student_layers=6), grade(3)), ground, 1)
    assert named.identity == found[0]


def test_several_grades_may_choose(campaign: Maker, ground: Ground) -> None:
    """A ladder of assistants that is taken for an impossible one."""
    config = campaign(amd(10), amd(7), amd(4), grade(2))
    plans, [lineage] = preflight(config, ground), lineages_of(config)
    found = [possible_layers(config, lineage, plan, ground) for plan in plans]
    assert found == [(12,), (8, 9, 10), (5, 6, 7), (3, 4), (2,)]


def test_candidate_as_deep_as_its_teacher_is_trained_and_not_promoted(campaign: Maker, ground: Ground) -> None:
    """A first grade of the teacher's own depth, as PMD has it, refused; or its whole student taken for a possible teacher."""
    config = campaign(amd(12), grade(9))
    [lineage] = lineages_of(config)
    plan = preflight(config, ground)[1]
    assert possible_layers(config, lineage, plan, ground) == (10, 11)
    assert resolve(config, ground, 1).method.model_dump()["depths"] == (10, 11, 12)


@pytest.mark.parametrize(
    ("grades", "sections", "match"),
    [
        ([amd(6), grade(6)], {}, "none of the candidates of 6 layers is deeper than the student of 6"),
        ([amd(12, depths=[12]), grade(3)], {}, "none of the candidates of 12 layers .* shallower than the teacher of 12"),
        ([amd(9, depths=[7, 8]), grade(3)], {}, "deepest of method.depths is 8, and the grade has 9 layers"),
        ([amd(9, depths=[7, 10]), grade(3)], {}, "deepest of method.depths is 10, and the grade has 9 layers"),
        ([amd(9, student_layers=3), grade(6)], {}, "2-layers6 is deeper than an assistant of 4 layers"),
        ([amd(9), grade(3, init="teacher")], {}, "layer map skip of a teacher whose depth is found"),
        ([amd(9), grade(3, init="teacher", layer_map=[1, 4, 6])], {}, "layer map .*layer [46] does not exist"),
        ([amd(9), grade(3, method={"name": "minilm", "teacher_layer": 5})], {}, "teacher_layer is 5, and its teacher has"),
        ([grade(9, method={**AMD, "feature": "search"}), grade(3)],
         {"schedule": {"name": "pipelined"}, "search": {"trials": 4}}, "1-layers9 searches 4 trials.*another depth"),
    ],
)  # fmt: skip
def test_ladder_that_some_assistant_would_not_fit_is_refused(
    campaign: Maker, ground: Ground, grades: list[dict[str, Any]], sections: dict[str, Any], match: str
) -> None:
    """A campaign that fails, or teaches from another layer than it says, where an assistant other than the planned one is chosen."""
    with pytest.raises(CapabilityError, match=match):
        preflight(campaign(*grades, **sections), ground)


@pytest.mark.parametrize(
    ("below", "sections"),
    [
        (grade(3, init="teacher", layer_map="first"), {}),
        (grade(3, init="teacher", layer_map=[0, 1, 3]), {}),
        (grade(3, method={"name": "pkd"}), {}),
        (grade(3, method={"name": "tinybert"}), {}),
        (grade(3, method={"name": "minilm", "teacher_layer": 3}), {}),
        (grade(3), {"schedule": {"name": "pipelined"}}),
        (grade(3, init="teacher"), {"schedule": {"name": "independent"}}),
    ],
)
def test_grade_that_every_assistant_can_teach_passes(
    campaign: Maker, ground: Ground, below: dict[str, Any], sections: dict[str, Any]
) -> None:
    """A refusal of what would work."""
    assert len(preflight(campaign(amd(9), below, **sections), ground)) == 3


def test_candidate_as_deep_as_its_teacher_may_be_chosen_where_it_is_narrower(campaign: Maker, ground: Ground) -> None:
    """A refusal of what works, or a grade below that is promised less depth or width than it may meet."""
    ground = replace(ground, encoder_intermediate=3072)
    config = campaign(amd(12, depths=[12], intermediate=[1536, 2304]), grade(6, init="teacher", layer_map="first"))
    [lineage] = lineages_of(config)
    plan = preflight(config, ground)[1]
    assert possible_layers(config, lineage, plan, ground) == (12,)
    assert {one.intermediate for one in sizes_of(config, lineage, 1, ground)} == {1536, 2304, 3072}
    assert resolve(config, ground, 1).method.model_dump()["intermediate"] == (1536, 2304)


def test_trials_with_other_widths_are_others_and_the_order_of_widths_is_nothing(
    campaign: Maker, ground: Ground
) -> None:
    """A trial that is taken over from another campaign whose candidates were others."""
    wanted = (None, [1536], [1536, 768], [768, 1536])
    found = [resolve(campaign(amd(9, intermediate=one), grade(3)), ground, 1).identity for one in wanted]
    assert len(set(found)) == 3
    assert found[2] == found[3]


@pytest.mark.parametrize(
    ("grades", "sections", "match"),
    [
        (
            [amd(9, intermediate=[3072]), grade(3)],
            {},
            "method.intermediate has 3072, and the student may begin with 3072",
        ),
        (
            [amd(9, depths=[9], intermediate=[256], student_layers=6), amd(6), grade(3)],
            {},
            "no candidate of 4, 5, 6 layers is larger than the student of 3 and smaller than the teacher of 9, which may have 256",
        ),
        (
            [amd(12, depths=[12], intermediate=[256]), grade(6)],
            {},
            "no candidate of 12 layers is larger than the student of 6 and smaller than the teacher of 12",
        ),
        ([amd(9, intermediate=[768]), grade(3)], {"contrastive": {"pre_batch": 1}}, "set pre_batch to 0"),
        (
            [amd(9, intermediate=[768]), grade(3, init="teacher", layer_map="first", method=PRUNED)],
            {},
            "intermediate is 1024, and the student begins with 768",
        ),
    ],
)
def test_widths_that_do_not_fit_are_refused(
    campaign: Maker, ground: Ground, grades: list[dict[str, Any]], sections: dict[str, Any], match: str
) -> None:
    """A trial that fails when it begins, or a grade that fails because another candidate was chosen than the planned one."""
    with pytest.raises(CapabilityError, match=match):
        preflight(campaign(*grades, **sections), replace(ground, encoder_width=768, encoder_intermediate=3072))


def test_epoch_before_the_choice_announces_nobody_and_the_grade_below_waits() -> None:
    """A teacher that is still several models at once."""
    state, place = CampaignState(), ("main", 1)
    report = {"metrics": {f"unfinished/{MRR}": 0.9, "valid/layers7/mrr": 0.9}, "checkpoint": "/c", "digest": "d"}
    assert not worth_announcing(state, place, report, 0.0)
    assert worth_announcing(state, place, {**report, "metrics": {MRR: 0.1}}, 0.0)
    assert ("main", 2) not in ready(["main"], 3, state, "pipelined")


def test_among_equal_trials_the_shallower_assistant_is_promoted() -> None:
    """Trials taken for equally large that ended with different depths."""
    records = []
    for number, depth in enumerate((8, 7)):
        record = TrialRecord(lineage="main", grade=1, number=number, identity=str(number), parameters={}, epochs=1)
        report = {"epoch": 1, "metrics": {MRR: 0.5, LAYERS: float(depth)}, "checkpoint": "/c", "digest": "d"}
        record.reports.append(report)
        record.status = "finished"
        records.append(record)
    assert choose(candidates(records, 9), 0.0).number == 1
