from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.config.space import Choice, LogUniform, Uniform
from raydistill.errors import ConfigError
from raydistill.planning.grades import grade_plans, lineages_of
from raydistill.planning.ground import Ground
from raydistill.planning.records import Status, TrialRecord
from raydistill.planning.search import Algorithm, Observation, Space, grade_space, grid, propose, resting, trial_limit
from raydistill.planning.state import CampaignState
from raydistill.students.layers import resolve_layer_map

Maker = Callable[..., CampaignConfig]
MIXED: Space = {
    "mask_ratio": Uniform(uniform=(0.0, 0.4)),
    "learning_rate": LogUniform(log_uniform=(1e-5, 1e-3)),
    "layer_map": Choice[Any](choice=("skip", "last", (0, 1, 2))),
}
FINITE: Space = {"view": Choice[Any](choice=("shared", "separate")), "mask_ratio": Choice[Any](choice=(0.0, 0.1, 0.2))}


def space_of(config: CampaignConfig, ground: Ground, grade: int = 1) -> Space:
    return grade_space(lineages_of(config)[0], grade_plans(config, ground)[grade])


def ask(space: Space, history: list[Observation], algorithm: Algorithm = "tpe", seed: int = 0) -> dict[str, Any] | None:
    return propose(space, history, len(history), algorithm=algorithm, seed=seed, grade=1, startup_trials=3)


def value(point: dict[str, Any]) -> float:
    return 1 - abs(point["mask_ratio"] - 0.3) + (0.2 if point.get("layer_map") == "last" else 0)


def search(
    space: Space, trials: int, algorithm: Algorithm, history: list[Observation] | None = None
) -> list[Observation]:
    history = list(history or [])
    while len(history) < trials and (point := ask(space, history, algorithm)) is not None:
        history.append(Observation(len(history), point, value(point)))
    return history


def test_space_of_a_grade(campaign: Maker, ground: Ground) -> None:
    """A value that was meant to be searched would silently stay fixed, or a fixed one would be searched."""
    config = campaign(
        {
            "layers": 3,
            "view": {"choice": ["shared", "separate"]},
            "init": "teacher",
            "learning_rate": {"log_uniform": [1e-5, 1e-4]},
            "method": {"name": "logits", "alpha": {"uniform": [0.1, 0.9]}, "temperature": {"choice": [1, 4]}},
        },
        {"layers": 3},
        method={"name": "pmd", "beta": {"choice": [0.1, 0.2]}},
    )
    assert sorted(space_of(config, ground)) == ["learning_rate", "method.alpha", "method.temperature", "view"]
    assert sorted(space_of(config, ground, 2)) == ["method.beta"]
    assert space_of(config, ground, 0) == {}


@pytest.mark.parametrize(
    ("asked", "lowest"),
    [
        ({"choice": [0.1, 0.2]}, {"choice": (0.0, 0.1, 0.2)}),
        ({"choice": [0.1, 0.0]}, {"choice": (0.1, 0.0)}),
        ({"uniform": [0.1, 0.3]}, {"uniform": (0.0, 0.3)}),
    ],
)
def test_no_masking_is_always_in_the_space(campaign: Maker, ground: Ground, asked: Any, lowest: Any) -> None:
    """Where texts are short masking only costs; a search could not find that out."""
    found = space_of(campaign({"layers": 3, "mask_ratio": asked}), ground)["mask_ratio"]
    assert found.model_dump() == lowest


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_interval_search_tries_no_masking(algorithm: Algorithm) -> None:
    """A draw from an interval never hits its end, so 0 would be in the space by name only."""
    assert 0.0 in [one.parameters["mask_ratio"] for one in search(MIXED, 3, algorithm)]


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
@pytest.mark.parametrize("space", [MIXED, FINITE], ids=["mixed", "finite"])
@pytest.mark.parametrize("moment", [0, 1, 4])
def test_resumed_search_proposes_what_it_would_have(algorithm: Algorithm, space: Space, moment: int) -> None:
    """A crash would change which trials a search runs, and with them the promoted student."""
    whole = search(space, 6, algorithm)
    through_json = [Observation(one.number, dict(one.parameters), one.value) for one in whole[:moment]]
    assert search(space, 6, algorithm, through_json[::-1][::-1]) == whole
    assert ask(space, whole[:moment][::-1], algorithm) == whole[moment].parameters


def test_seed_and_grade_change_the_search() -> None:
    """Two seeds of one comparison would search the same points, and their spread would mean nothing."""
    points = [ask(MIXED, [], seed=seed) for seed in range(3)]
    points.append(propose(MIXED, [], 0, algorithm="tpe", seed=0, grade=2, startup_trials=3))
    assert len({str(point) for point in points}) == 4


@pytest.mark.parametrize("algorithm", ["tpe", "random", "grid"])
def test_finite_space_is_used_up_without_repetition(algorithm: Algorithm) -> None:
    """A search would train the same point twice, or go on for ever when there is nothing new."""
    history = search(FINITE, 50, algorithm)
    points = [tuple(sorted(one.parameters.items())) for one in history]
    assert len(points) == len(set(points)) == 6


def test_running_and_failed_trials_are_not_proposed_again() -> None:
    """Trials that run side by side would do the same work."""
    history: list[Observation] = []
    while (point := ask(FINITE, history)) is not None:
        history.append(Observation(len(history), point, None))
    assert len({str(one.parameters) for one in history}) == 6


def test_tpe_learns_from_results() -> None:
    """A search blind to its results would be a random one under another name."""
    later = [one.value or 0 for one in search(MIXED, 30, "tpe")[15:]]
    blind = [one.value or 0 for one in search(MIXED, 30, "random")[15:]]
    assert sum(later) / 15 > sum(blind) / 15 + 0.05


def test_grid_is_whole_and_ordered(campaign: Maker, ground: Ground) -> None:
    """A grid would be cut to the default of one trial."""
    config = campaign({"layers": 3, "mask_ratio": {"choice": [0.0, 0.1]}, "view": {"choice": ["shared", "separate"]}})
    plan = grade_plans(config, ground)[1]
    space = space_of(config, ground)
    assert trial_limit(space, plan, "grid") == 4
    assert trial_limit(space, plan, "tpe") == 1
    assert trial_limit(space, replace(plan, trials=100), "tpe") == 4, "no point is tried twice"
    assert [one.parameters for one in search(space, 9, "grid")] == grid(space)
    assert grid(space)[0] == {"mask_ratio": 0.0, "view": "shared"}


def test_grid_over_an_interval_names_it() -> None:
    """The reader would have to guess which of many values has no end."""
    with pytest.raises(ConfigError, match="grid search over learning_rate, which is log_uniform"):
        grid({"view": FINITE["view"], "learning_rate": MIXED["learning_rate"]})


def test_nothing_to_search_is_one_trial(campaign: Maker, ground: Ground) -> None:
    """Sixteen equal trials would be run where nothing varies."""
    plan = grade_plans(campaign(search={"trials": 16}), ground)[1]
    assert trial_limit({}, plan, "tpe") == 1
    assert ask({}, []) == {}
    assert ask({}, [Observation(0, {}, 0.1)]) is None


def test_layer_maps_survive_json() -> None:
    """A tuple that comes back from the ledger as a list would count as a new point."""
    space: Space = {"layer_map": Choice[Any](choice=((0, 1), (1, 2)))}
    first = ask(space, [])
    assert first is not None
    second = ask(space, [Observation(0, first, 0.5)])
    assert sorted([first["layer_map"], second["layer_map"]] if second else []) == [[0, 1], [1, 2]]


@pytest.mark.parametrize("algorithm", ["tpe", "random", "grid"])
def test_points_of_equal_work_are_tried_once(algorithm: Algorithm) -> None:
    """`uniform` and `skip` pick the same 4 of 6 layers: trials asked for would be spent on work that is done already."""
    space: Space = {"layer_map": Choice[Any](choice=("uniform", "skip", "first", "last"))}

    def layers(point: Any) -> str:
        return str(resolve_layer_map(point["layer_map"], 6, 4))

    assert layers({"layer_map": "uniform"}) == layers({"layer_map": "skip"})
    history: list[Observation] = []
    for number in range(4):
        point = propose(space, history, number, algorithm=algorithm, seed=0, grade=1, startup_trials=2, work=layers)
        if point is None:
            break
        history.append(Observation(number, point, 0.1 * number))
    assert len(history) == 3
    assert len({layers(one.parameters) for one in history}) == 3


@pytest.mark.parametrize(
    ("statuses", "rests"),
    [
        (["paused", "paused"], True),
        (["paused", "failed"], True),
        (["paused"], False),
        (["paused", "running"], False),
        (["finished", "stopped"], False),
        ([], False),
    ],
)
def test_grade_with_nothing_left_but_waiting_trials(
    campaign: Maker, ground: Ground, statuses: list[Status], rests: bool
) -> None:
    """A grade would take room to find out that it has to wait; or one that has work, or all of whose trials have ended, be held back."""
    config = campaign({"layers": 3, "mask_ratio": {"uniform": [0.0, 0.2]}, "trials": 2})
    trials = {
        ("main", 1, number): TrialRecord(f"{number}", "main", 1, number, {}, status=status)
        for number, status in enumerate(statuses)
    }
    found = resting(CampaignState(trials=trials), lineages_of(config), grade_plans(config, ground), "tpe")
    assert found == ({("main", 1)} if rests else set())
