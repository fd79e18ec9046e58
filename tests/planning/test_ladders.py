"""The search over whole ladders: what it proposes, and what it calls unbeaten."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from pydantic import ValidationError

from raydistill.config.ladders import LadderSearchSection
from raydistill.config.load import dump_config, one_grade, parse_config, parse_yaml
from raydistill.errors import ConfigError
from raydistill.planning.ladders import (
    LadderResult,
    described,
    ladder_config,
    ladder_in,
    ladder_of,
    next_ladder,
    pareto,
    propose_ladder,
)

SECTION = LadderSearchSection(grades=(1, 3), depths=(1, 2, 3, 4), startup_ladders=3, objectives=("mrr", "bytes"))
CONFIG: dict[str, Any] = {
    "data": {"path": "d"}, "encoder": {"name": "e"}, "grades": [{"layers": 3, "init": "teacher", "epochs": 2}],
}  # fmt: skip


def search(section: LadderSearchSection, count: int) -> list[LadderResult]:
    results: list[LadderResult] = []
    while len(results) < count:
        point = propose_ladder(section, results, len(results), seed=0)
        if point is None:
            break
        last = ladder_of(section, point)["grades"][-1]
        results.append(
            LadderResult(len(results), point, {"mrr": 0.1 * last["layers"], "bytes": 100.0 * last["layers"]})
        )
    return results


def test_depths_and_masks_fall_down_every_ladder() -> None:
    """A student deeper than its teacher cannot be built, and masks that rise are not what was asked for."""
    for result in search(SECTION, 12):
        grades = ladder_of(SECTION, result.point)["grades"]
        layers, masks = [one["layers"] for one in grades], [one["mask_ratio"] for one in grades]
        assert layers == sorted(set(layers), reverse=True)
        assert masks == sorted(masks, reverse=True)
        assert 1 <= len(grades) <= 3


def test_no_ladder_has_fewer_grades_than_were_asked_for() -> None:
    """Of two grades of one depth one is left: a search for ladders of three would run some of two, or of one."""
    three = SECTION.model_copy(update={"grades": (3, 3), "depths": (5, 1, 3, 4)})
    assert {len(ladder_of(three, one.point)["grades"]) for one in search(three, 12)} == {3}
    point = {"grades": 3, "alpha": 0.1, "beta": 0.0}
    for grade in range(3):
        point |= {f"layers.{grade}": 4, f"mask_ratio.{grade}": 0.1 * grade, f"layer_map.{grade}": "skip"}
    assert [one["layers"] for one in ladder_of(three, point)["grades"]] == [5, 4, 1]
    fewer = three.model_copy(update={"grades": (1, 3)})
    assert [one["layers"] for one in ladder_of(fewer, point)["grades"]] == [4]


def test_masks_may_rise_where_that_is_asked_for() -> None:
    """Sorting whatever was drawn would make a free search a constrained one."""
    free = SECTION.model_copy(update={"falling_masks": False})
    ladders = [ladder_of(free, one.point)["grades"] for one in search(free, 12)]
    assert any(above["mask_ratio"] < below["mask_ratio"] for one in ladders for above, below in itertools.pairwise(one))


def test_no_ladder_is_run_twice_and_a_small_space_ends() -> None:
    """Two points that come to one ladder would cost its whole training again."""
    small = LadderSearchSection(
        grades=(1, 1), depths=(1, 2), mask_ratios=(0.0,), layer_maps=("skip",), alphas=(0.1,), betas=(0.0,)
    )
    assert len(search(small, 10)) == 2


def test_resumed_search_proposes_what_it_would_have() -> None:
    """A search taken up after a crash would repeat or skip ladders."""
    results = search(SECTION, 6)
    assert propose_ladder(SECTION, results[:4], 4, seed=0) == results[4].point


def test_ladders_beside_each_other_are_others() -> None:
    """Two that run at once would be one and the same, or their numbers, and folders."""
    small = LadderSearchSection(
        ladders=3, grades=(1, 1), depths=(1, 2), mask_ratios=(0.0,), layer_maps=("skip",), alphas=(0.1,), betas=(0.0,)
    )
    config = parse_config({**CONFIG, "ladders": small.model_dump(mode="json")})
    first = next_ladder(config, [])
    assert first is not None
    second = next_ladder(config, [], [first])
    assert second is not None
    assert ladder_of(small, first) != ladder_of(small, second)
    assert next_ladder(config, [], [first, second]) is None, "there is no third one"
    ended = LadderResult(0, first, {"mrr": 0.5, "bytes": 1.0})
    assert next_ladder(config, [ended], [second]) is None


def test_what_runs_counts_as_bad_where_ladders_are_modelled() -> None:
    """Every ladder beside another would be its neighbour in the space: TPE does not know of what has not ended."""
    results = search(SECTION, 8)
    [alone, aware] = [
        [propose_ladder(SECTION, results, 8, seed, running) for seed in range(4)]
        for running in ([], [one.point for one in search(SECTION, 12)[8:]])
    ]
    assert None not in aware
    assert alone != aware
    assert aware == [
        propose_ladder(SECTION, results, 8, seed, [one.point for one in search(SECTION, 12)[8:]]) for seed in range(4)
    ]


def test_unbeaten_ladders_by_hand() -> None:
    """A dominated ladder in the set wastes a reader's choice; a missing one takes it away."""
    values = [(0.5, 100), (0.6, 200), (0.5, 200), (0.4, 50), (0.6, 200)]
    results = [LadderResult(n, {}, {"mrr": mrr, "bytes": size}) for n, (mrr, size) in enumerate(values)]
    results.append(LadderResult(5, {}, {}, "the loss is nan"))
    assert [one.number for one in pareto(results, ("mrr", "bytes"))] == [0, 1, 3, 4]
    assert [one.number for one in pareto(results, ("mrr",))] == [1, 4]


def test_ladder_becomes_a_campaign_that_keeps_the_rest() -> None:
    """Epochs, initial layers or seed of the campaign would be lost on the way."""
    ladder = {"grades": [{"layers": 2, "mask_ratio": 0.1, "layer_map": "last"}], "alpha": 0.3, "beta": 0.0}
    config = ladder_config(parse_config({**CONFIG, "seed": 4, "ladders": {"depths": [1, 2]}}), ladder)
    assert [(one.layers, one.mask_ratio, one.init, one.epochs, one.trials) for one in config.grades] == [
        (2, 0.1, "teacher", 2, 1)
    ]
    assert (config.method.model_dump()["alpha"], config.seed, config.ladders) == (0.3, 4, None)
    again = parse_yaml(dump_config(config), "here")
    assert parse_config(again) == config
    assert ladder_in(config) == ladder


def test_refused_ladder_is_a_refused_configuration() -> None:
    """A complaint of pydantic's would end a night's search as a fault of raydistill, without a word on what to mend."""
    ladder = {"grades": [{"layers": 2, "mask_ratio": 1.5, "layer_map": "last"}], "alpha": 0.3, "beta": 0.0}
    with pytest.raises(ConfigError, match=r"grades\.0\.mask_ratio") as caught:
        ladder_config(parse_config({**CONFIG, "ladders": {"depths": [1, 2]}}), ladder)
    assert caught.value.expected
    assert caught.value.consequence
    assert caught.value.remedy


def test_search_ends_after_its_ladders_or_with_its_space() -> None:
    """A search that is over would be called interrupted, and gone on with again and again."""
    one = {
        "depths": [2],
        "mask_ratios": [0.0],
        "layer_maps": ["skip"],
        "alphas": [0.1],
        "betas": [0.0],
        "grades": [1, 1],
    }
    config = parse_config({**CONFIG, "ladders": {**one, "ladders": 2}})
    assert config.ladders is not None
    first = next_ladder(config, [])
    assert first is not None
    ended = LadderResult(0, first, {}, "the loss is nan")
    assert next_ladder(config, [ended]) is None, "there is no second one"
    wide = parse_config({**CONFIG, "ladders": {"depths": [1, 2], "ladders": 1}})
    assert next_ladder(wide, [ended]) is None
    [told] = described(config.ladders, [ended])
    assert (told["status"], told["reason"], told["pareto"]) == ("failed", "the loss is nan", False)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ladders": {"depths": [3, 2, 3], "grades": [3, 3]}}, "grades: at least 3 .* depths has 2"),
        ({"teacher": {"layers": 4}, "ladders": {"depths": [6, 3]}}, "ladders.depths has 6, .* a teacher of 4"),
        (
            {"grades": [{"layers": 3, "epochs": 2}, {"layers": 2, "epochs": 9}],
             "search": {"early_stopping": "asha", "grace_epochs": 2}},
            "no student trains for more than 2 epochs",
        ),
        ({"grades": [{"layers": 3}, {"layers": 2, "method": {"name": "pmd"}}]}, r"grades\.1\.method .* remove it"),
    ],
    ids=["fewest", "depths", "epochs", "method"],
)  # fmt: skip
def test_search_whose_ladders_cannot_be_is_refused(changes: dict[str, Any], match: str) -> None:
    """It would end at its first such ladder, and there again each time it is resumed; or search weights that nothing reads."""
    content = {**CONFIG, "ladders": {"depths": [3, 2]}, **changes}
    with pytest.raises(ConfigError, match=match):
        parse_config(content)
    parse_config({**CONFIG, "teacher": {"layers": 3}, "ladders": {"depths": [3, 2]}})


def test_grade_beside_a_search_can_be_searched_alone() -> None:
    """Its run would be taken for a search in which nothing has happened."""
    several = parse_config({**CONFIG, "ladders": {"depths": [3, 2]}, "resources": {"concurrent_ladders": 2}})
    assert one_grade(several, 1, "x").ladders is None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"grades": (3, 1)}, "fewest"),
        ({"alphas": (0.6,), "betas": (0.5,)}, "below 1"),
        ({"depths": ()}, "at least 1 item"),
        ({"objectives": ("mrr", "mrr")}, "once"),
    ],
)
def test_impossible_search_is_refused(changes: dict[str, Any], match: str) -> None:
    """It would fail after the teacher was trained."""
    with pytest.raises(ValidationError, match=match):
        LadderSearchSection(**{"depths": (1, 2), **changes})
