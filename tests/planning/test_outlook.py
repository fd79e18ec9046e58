"""What a campaign will do, told before it does it: numbers by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TeacherReference
from raydistill.planning.grades import grade_plans, lineages_of
from raydistill.planning.ground import Ground
from raydistill.planning.outlook import GradeOutlook, outlook
from raydistill.planning.search import grade_space, trial_limit

Maker = Callable[..., CampaignConfig]
TRAINING = {"batch_size": 100, "epochs": 3}


def told(config: CampaignConfig, ground: Ground) -> list[GradeOutlook]:
    return outlook(config, grade_plans(config, ground), ground)


def test_grades_are_told_with_their_steps_and_their_search(campaign: Maker, ground: Ground) -> None:
    """Whoever asks for 60 epochs of 4,000 steps sees it after a day."""
    searched = {"layers": 6, "mask_ratio": {"choice": [0.0, 0.1, 0.2]}, "learning_rate": {"log_uniform": [1e-5, 1e-4]}}
    config = campaign(
        {**searched, "trials": 5},
        {"layers": 3, "mask_ratio": 0.05, "epochs": 7},
        training=TRAINING,
        teacher={"epochs": 2},
    )
    teacher, first, second = told(config, replace(ground, epoch_examples=950))
    assert (teacher.grade, teacher.layers, teacher.teacher, teacher.method) == ("0-teacher", 12, "", "")
    # 950 examples are 10 batches of 100, the last one smaller.
    assert [one.steps for one in (teacher, first, second)] == [20, 30, 70]
    assert [one.trials for one in (teacher, first, second)] == [1, 5, 1]
    assert [one.teacher for one in (first, second)] == ["0-teacher", first.grade]
    assert set(first.space) == {"mask_ratio", "learning_rate"}
    assert (first.mask_ratio, second.mask_ratio) == (None, 0.05)
    assert first.method == "pmd"


def test_lineages_that_differ_in_their_seed_alone_are_told_once(campaign: Maker, ground: Ground) -> None:
    """Nine methods with three seeds would be a hundred rows; and a teacher that is trained once be told nine times."""
    compared = {"methods": [{"name": "pmd"}, {"name": "none"}], "seeds": [0, 1]}
    config = campaign({"layers": 6, "mask_ratio": 0.1}, compare=compared, training=TRAINING)
    found = told(config, ground)
    assert [(one.lineages, one.grade) for one in found] == [
        (("pmd-seed0", "pmd-seed1"), "0-teacher"),
        (("pmd-seed0", "pmd-seed1"), "1-layers6"),
        (("none-seed0", "none-seed1"), "1-layers6"),
    ]
    assert all(one.steps is None for one in found), "nobody knows the examples"


def test_mask_ratio_is_the_one_that_is_applied(campaign: Maker, ground: Ground) -> None:
    """A table of masks that nobody looks at."""
    section = {"layers": 3, "mask_ratio": 0.1}
    found = {
        name: told(campaign(section, method={"name": name}, view="separate"), ground)[1].mask_ratio
        for name in ("pmd", "logits")
    }
    assert found == {"pmd": 0.1, "logits": 0.0}
    assert told(campaign(section, method={"name": "logits"}, view="shared"), ground)[1].mask_ratio == 0.1
    assert told(campaign({**section, "view": {"choice": ["separate", "shared"]}}), ground)[1].mask_ratio == 0.1


def test_given_teacher_is_not_trained(campaign: Maker, ground: Ground) -> None:
    """A trial that is not run, counted."""
    ground = replace(ground, given_teacher=TeacherReference(path="t", digest="d" * 64), epoch_examples=10)
    teacher, student = told(campaign({"layers": 3, "mask_ratio": 0.0}, teacher={"checkpoint": "t"}), ground)
    assert (teacher.trials, teacher.epochs, teacher.steps) == (0, 0, 0)
    assert student.trials == 1


@pytest.mark.parametrize("algorithm", ["tpe", "grid"])
def test_trials_are_those_that_a_search_may_run(campaign: Maker, ground: Ground, algorithm: str) -> None:
    """A grid is run whole, whatever search.trials says."""
    section = {"layers": 6, "mask_ratio": {"choice": [0.0, 0.1]}, "layer_map": {"choice": ["first", "last", "skip"]}}
    config = campaign(section, search={"algorithm": algorithm, "trials": 4})
    [_, plan], [lineage] = grade_plans(config, ground), lineages_of(config)
    found = told(config, ground)[1].trials
    assert found == {"tpe": 4, "grid": 6}[algorithm] == trial_limit(grade_space(lineage, plan), plan, algorithm)
