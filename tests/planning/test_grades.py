from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.errors import CapabilityError, ConfigError
from raydistill.planning.grades import grade_plans, lineages_of, trial_config
from raydistill.planning.ground import Ground
from raydistill.planning.search import grade_space

Maker = Callable[..., CampaignConfig]
TEACHER = TeacherReference(path="/t", digest="a" * 64)


def resolve(
    config: CampaignConfig, ground: Ground, grade: int, teacher: TeacherReference | None = TEACHER, **chosen: Any
) -> TrialConfig:
    lineage = lineages_of(config)[0]
    return trial_config(config, lineage, grade_plans(config, ground)[grade], chosen, ground, teacher)


def test_one_lineage_without_compare(campaign: Maker) -> None:
    """A plain campaign would find its run directory named after a comparison nobody made."""
    assert [one.name for one in lineages_of(campaign(seed=7))] == ["main"]
    assert lineages_of(campaign(seed=7))[0].seed == 7


def test_lineages_have_distinct_names(campaign: Maker) -> None:
    """Two weights of one method would share a ladder, and one would overwrite the other."""
    methods = [{"name": "pmd", "alpha": 0.1}, {"name": "none"}, {"name": "pmd", "alpha": 0.2}]
    lineages = lineages_of(campaign(compare={"methods": methods, "seeds": [0, 5]}))
    assert [one.name for one in lineages] == [
        "pmd1-seed0", "pmd1-seed5", "none-seed0", "none-seed5", "pmd2-seed0", "pmd2-seed5",
    ]  # fmt: skip
    assert lineages[4].method.alpha == 0.2


def test_grade_folders_and_depths(campaign: Maker, ground: Ground) -> None:
    """Grades of one depth would share a folder, or a teacher without a depth would have none."""
    plans = grade_plans(campaign({"layers": 6}, {"layers": 6, "trials": 3}, search={"trials": 2}), ground)
    assert [plan.folder for plan in plans] == ["0-teacher", "1-layers6", "2-layers6"]
    assert [plan.layers for plan in plans] == [12, 6, 6]
    assert [plan.trials for plan in plans] == [1, 2, 3]


def test_teachers_of_compared_methods_are_equal_work(campaign: Maker, ground: Ground) -> None:
    """The teacher of every method would be trained again, although none of them touches it."""
    config = campaign(
        {"layers": 3, "mask_ratio": 0.2},
        view="shared",
        compare={"methods": [{"name": "pmd"}, {"name": "logits"}], "seeds": [0, 1]},
    )
    plan = grade_plans(config, ground)[0]
    trials = [trial_config(config, lineage, plan, {}, ground, None) for lineage in lineages_of(config)]
    assert trials[0].identity == trials[2].identity != trials[1].identity
    assert (trials[0].method.name, trials[0].mask_ratio, trials[0].layer_map) == ("none", 0.0, tuple(range(12)))


def test_settings_left_open_come_from_the_campaign(campaign: Maker, ground: Ground) -> None:
    """A grade without settings of its own would train with defaults nobody chose."""
    config = campaign(
        {"layers": 6, "mask_ratio": 0.1},
        {"layers": 3, "epochs": 9, "learning_rate": 1e-3, "view": "separate", "method": {"name": "pkd"}},
        training={"epochs": 4, "learning_rate": 2e-5},
        teacher={"epochs": 11, "learning_rate": 3e-5},
        view="shared",
        method={"name": "logits"},
        seed=3,
    )
    teacher, first, second = (resolve(config, ground, grade) for grade in range(3))
    assert (teacher.training.epochs, teacher.training.learning_rate) == (11, 3e-5)
    assert (first.training.epochs, first.training.learning_rate, first.view) == (4, 2e-5, "shared")
    assert (second.training.epochs, second.training.learning_rate, second.view) == (9, 1e-3, "separate")
    assert (first.method.name, second.method.name) == ("logits", "pkd")
    assert {one.seed for one in (teacher, first, second)} == {3}
    assert (first.data_fingerprint, first.encoder_fingerprint) == (
        ground.dataset_fingerprint,
        ground.encoder_fingerprint,
    )


@pytest.mark.parametrize(
    ("method", "left", "right", "equal"),
    [
        ("pmd", {"view": "shared"}, {"view": "separate"}, True),
        ("pmd", {"method.beta": 0.1}, {"method.beta": 0.2}, True),
        ("pmd", {"mask_ratio": 0.2, "method.beta": 0.1}, {"mask_ratio": 0.2, "method.beta": 0.2}, False),
        ("pmd", {"mask_ratio": 0.1}, {"mask_ratio": 0.2}, False),
        ("logits", {"mask_ratio": 0.1, "view": "separate"}, {"mask_ratio": 0.2, "view": "separate"}, True),
        ("logits", {"mask_ratio": 0.1, "view": "shared"}, {"mask_ratio": 0.2, "view": "shared"}, False),
        ("boot", {"mask_ratio": 0.1, "view": "shared"}, {"mask_ratio": 0.2, "view": "shared"}, True),
    ],
)
def test_points_that_ask_for_the_same_work_are_one_trial(
    campaign: Maker, ground: Ground, method: str, left: dict[str, Any], right: dict[str, Any], equal: bool
) -> None:
    """A search would spend its trials on masks that nobody looks at, or take one trial for another."""
    config = campaign({"layers": 3}, method={"name": method})
    identities = {resolve(config, ground, 1, **chosen).identity for chosen in (left, right)}
    assert (len(identities) == 1) is equal


def test_masked_features_of_a_part_are_off_without_masks(campaign: Maker, ground: Ground) -> None:
    """A search over a combination that tries equal work again and again."""
    parts = [{"name": "distilbert"}, {"name": "pmd", "beta": {"choice": [0.1, 0.2]}}]
    config = campaign({"layers": 3}, method={"name": "combined", "parts": parts})
    for ratio, different in ((0.0, 1), (0.2, 2)):
        chosen = [{"mask_ratio": ratio, "method.pmd.beta": beta} for beta in (0.1, 0.2)]
        assert len({resolve(config, ground, 1, **one).identity for one in chosen}) == different


def test_chosen_values_win(campaign: Maker, ground: Ground) -> None:
    """A search would propose values that no trial uses."""
    grade = {
        "layers": 3,
        "mask_ratio": {"choice": [0.0, 0.2]},
        "layer_map": {"choice": ["skip", [0, 1, 2]]},
        "learning_rate": {"log_uniform": [1e-5, 1e-3]},
        "method": {"name": "pmd", "alpha": {"uniform": [0.0, 0.3]}},
    }
    chosen = {"mask_ratio": 0.2, "layer_map": [0, 1, 2], "learning_rate": 1e-4, "method.alpha": 0.25, "init": "teacher"}
    trial = resolve(campaign(grade), ground, 1, **chosen)
    assert (trial.mask_ratio, trial.layer_map, trial.training.learning_rate) == (0.2, (0, 1, 2), 1e-4)
    assert (trial.method.alpha, trial.init) == (0.25, "teacher")


@pytest.mark.parametrize(
    ("schedule", "init", "expected"),
    [
        ("sequential", "pretrained", (2, 6, 10)),
        ("sequential", "teacher", (1, 3, 5)),
        ("independent", "teacher", (2, 6, 10)),
    ],
)
def test_layer_map_counts_over_the_right_model(
    campaign: Maker, ground: Ground, schedule: str, init: str, expected: tuple[int, ...]
) -> None:
    """A student that starts from a six-layer teacher would be given layer 10 of it."""
    config = campaign({"layers": 6}, {"layers": 3, "init": init}, schedule={"name": schedule})
    assert resolve(config, ground, 2).layer_map == expected


@pytest.mark.parametrize(
    ("method", "init", "taught"),
    [("none", "pretrained", False), ("none", "teacher", True), ("pmd", "pretrained", True)],
)
def test_teacher_counts_only_where_it_matters(
    campaign: Maker, ground: Ground, method: str, init: str, taught: bool
) -> None:
    """A student that does not distil would be trained again for every new teacher."""
    config = campaign({"layers": 3, "init": init}, method={"name": method})
    assert (resolve(config, ground, 1).teacher is not None) == taught


def test_missing_teacher_is_refused(campaign: Maker, ground: Ground) -> None:
    """A student would distil from nobody."""
    with pytest.raises(CapabilityError, match="without a teacher"):
        resolve(campaign(), ground, 1, teacher=None)


COMBINED = {
    "name": "combined",
    "parts": [{"name": "pmd", "alpha": "search"}, {"name": "minilm", "relation": {"choice": [0.5, 1.0]}}],
}


def test_values_of_a_part_are_searched_under_its_name(campaign: Maker, ground: Ground) -> None:
    """A value of one part that ends in another, or that nobody draws."""
    config = campaign({"layers": 3, "method": COMBINED})
    plan, [lineage] = grade_plans(config, ground)[1], lineages_of(config)
    assert grade_space(lineage, plan).keys() == {"method.pmd.alpha", "method.minilm.relation"}
    chosen = {"method.pmd.alpha": 0.3, "method.minilm.relation": 0.5}
    trial = trial_config(config, lineage, plan, chosen, ground, TeacherReference(path="/t", digest="a"))
    [first, second] = trial.method.parts  # type: ignore[union-attr]
    assert (first.alpha, first.beta, second.relation) == (0.3, 0.1, 0.5)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="alpha"):
        trial_config(config, lineage, plan, {**chosen, "method.pmd.alpha": 1.5}, ground, trial.teacher)


def test_combined_method_masks_and_is_taught_if_a_part_is(campaign: Maker, ground: Ground) -> None:
    """Masks that no term sees, or a part that has no teacher to ask."""
    for parts, masked in (([{"name": "minilm"}, {"name": "pmd"}], 0.2), ([{"name": "minilm"}, {"name": "dkd"}], 0.0)):
        config = campaign({"layers": 3, "mask_ratio": 0.2, "method": {"name": "combined", "parts": parts}})
        plan, [lineage] = grade_plans(config, ground)[1], lineages_of(config)
        trial = trial_config(config, lineage, plan, {}, ground, TeacherReference(path="/t", digest="a"))
        assert (trial.mask_ratio, trial.teacher is not None) == (masked, True)


def test_compared_combinations_are_called_by_their_parts(campaign: Maker) -> None:
    """Two combinations of one name in a table."""
    parts = [{"name": "pmd"}, {"name": "minilm"}]
    compared = {"methods": [{"name": "pmd"}, {"name": "combined", "parts": parts}], "seeds": [0]}
    assert [one.name for one in lineages_of(campaign({"layers": 3}, compare=compared))] == [
        "pmd-seed0",
        "pmd+minilm-seed0",
    ]


def test_number_of_examples_that_is_left_out_is_filled_in(campaign: Maker, ground: Ground) -> None:
    """Two trials of unequal work taken for equal, because what is left out meant something else on another day or graph; or a number that was given and is not kept."""
    known, other = (replace(ground, epoch_examples=number) for number in (5502, 10432))

    def trial(where: Ground, **method: Any) -> TrialConfig:
        return resolve(campaign(method={"name": "boot", **method}), where, 1)

    assert trial(known).identity == trial(other, examples=5502).identity != trial(other).identity
    assert trial(ground).method.examples is None  # type: ignore[union-attr]
    plain = [resolve(campaign(method={"name": "logits"}), where, 1) for where in (known, ground)]
    assert plain[0] == plain[1]
