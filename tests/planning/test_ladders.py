"""The search over whole ladders: what it proposes, and what it calls unbeaten."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from pydantic import ValidationError

from raydistill.config.ladders import LadderSearchSection
from raydistill.config.load import dump_config, parse_config, parse_yaml
from raydistill.planning.ladders import LadderResult, ladder_config, ladder_of, pareto, propose_ladder

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
