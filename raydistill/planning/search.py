"""The search within a grade: what may vary, and which point comes next.

Proposing is a pure function of the finished history, so that a search taken up after a crash proposes what it would have proposed anyway:
no sampler lives longer than one proposal, and its seed comes from the seed of the lineage, the grade and the trial's number. Where several trials run
at once, which of them have finished when the next is proposed depends on their speed: grid and random searches do not care, TPE and early stopping do.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from raydistill.config.space import Choice, LogUniform, Uniform, is_distribution
from raydistill.errors import ConfigError
from raydistill.planning.grades import GradePlan, Lineage, method_of
from raydistill.planning.method_values import method_values
from raydistill.planning.records import ENDED
from raydistill.planning.state import CampaignState

if TYPE_CHECKING:
    import optuna

Algorithm = Literal["tpe", "random", "grid"]
Distribution = Choice[Any] | Uniform | LogUniform
Space = Mapping[str, Distribution]
MAX_ASKS = 20
MOST_LISTED = 1_000
"""Points of a finite space that are looked through for those left, rather than drawn until a new one comes."""


@dataclass(frozen=True)
class Observation:
    """A trial as the search sees it: its point, and its best validation MRR. None = it failed, or runs and has not shown its worth yet."""

    number: int
    parameters: Mapping[str, Any]
    value: float | None


def grade_space(lineage: Lineage, plan: GradePlan) -> dict[str, Distribution]:
    """What may vary in a grade, by name. Empty for the teacher."""
    if plan.section is None:
        return {}
    section, method = plan.section, method_of(lineage, plan)
    found: dict[str, Any] = {
        name: getattr(section, name) for name in ("mask_ratio", "layer_map", "view", "init", "learning_rate")
    }
    found |= {f"method.{name}": value for name, value in method_values(method)}
    space: dict[str, Distribution] = {name: value for name, value in found.items() if is_distribution(value)}
    if "mask_ratio" in space:
        space["mask_ratio"] = with_zero(space["mask_ratio"])
    return space


def with_zero(distribution: Distribution) -> Distribution:
    """Masking costs accuracy where texts are short, so a search over the mask ratio may always answer: none."""
    if isinstance(distribution, Choice) and 0 not in distribution.choice:
        return Choice[float](choice=(0.0, *distribution.choice))
    if isinstance(distribution, Uniform) and distribution.uniform[0] > 0:
        return Uniform(uniform=(0.0, distribution.uniform[1]))
    return distribution


def grid(space: Space) -> list[dict[str, Any]]:
    """Every point of a finite space, in a fixed order.

    Raises:
        ConfigError: an interval has no finite number of points.
    """
    for name, distribution in space.items():
        if not isinstance(distribution, Choice):
            kind = "uniform" if isinstance(distribution, Uniform) else "log_uniform"
            raise ConfigError(
                f"grid search over {name}, which is {kind}",
                expected="a choice of listed values",
                consequence="a grid over an interval has no end",
                remedy=f"list the values of {name} with `choice`, or set search.algorithm to tpe or random",
            )
    names = sorted(space)
    lists = [_values(space[name]) for name in names]
    return [dict(zip(names, point, strict=True)) for point in itertools.product(*lists)]


def trial_limit(space: Space, plan: GradePlan, algorithm: Algorithm) -> int:
    """How many trials a grade runs at most: no point twice. A grid is run whole, unless the grade itself says how many."""
    if not space:
        return 1
    if algorithm == "grid":
        points = len(grid(space))
        asked = plan.section.trials if plan.section is not None else None
        return min(points, asked) if asked is not None else points
    finite = all(isinstance(distribution, Choice) for distribution in space.values())
    return min(plan.trials, _points(space)) if finite else plan.trials


def resting(
    state: CampaignState, lineages: Sequence[Lineage], plans: Sequence[GradePlan], algorithm: Algorithm
) -> set[tuple[str, int]]:
    """The grades that have begun as many trials as they may, and of which nothing is left but some that wait for their final teacher."""
    found = set()
    for lineage, plan in itertools.product(lineages, plans):
        records = state.of(lineage.name, plan.index)
        left = {record.status for record in records if record.status not in ENDED}
        if left == {"paused"} and len(records) >= trial_limit(grade_space(lineage, plan), plan, algorithm):
            found.add((lineage.name, plan.index))
    return found


def is_search(space: Space) -> bool:
    """Whether a space has more than one point."""
    return not all(isinstance(distribution, Choice) for distribution in space.values()) or _points(space) > 1


def _plain(value: Any) -> Any:
    """Layer maps as lists, so that a point is the same before and after a way through JSON."""
    return list(value) if isinstance(value, tuple) else value


def _key(point: Mapping[str, Any]) -> str:
    return json.dumps({name: _plain(value) for name, value in point.items()}, sort_keys=True)


def propose(
    space: Space,
    history: Sequence[Observation],
    number: int,
    *,
    algorithm: Algorithm,
    seed: int,
    grade: int,
    startup_trials: int,
    work: Callable[[Mapping[str, Any]], str] = _key,
) -> dict[str, Any] | None:
    """The point of trial `number`, or None when every point of a finite space has been used.

    Args:
        space: what may vary.
        history: the trials begun so far, in any order.
        number: number of the trial to propose.
        algorithm: how to choose.
        seed: seed of the lineage.
        grade: index of the grade, mixed into the seed.
        startup_trials: random trials before TPE models the results.
        work: names the work a point asks for; two points of one name (such as two layer maps that pick the same layers) are tried once.
    """
    used = {work(observation.parameters) for observation in history}
    if algorithm == "grid" or not space:
        return next((point for point in grid(space) if work(point) not in used), None)
    finite = all(isinstance(distribution, Choice) for distribution in space.values())
    unused = (
        [point for point in grid(space) if work(point) not in used]
        if finite and _points(space) <= MOST_LISTED
        else None
    )
    if unused is not None and not unused:
        return None
    for attempt in range(MAX_ASKS):
        point = _ask(space, history, _seed(seed, grade, number, attempt), algorithm, startup_trials)
        if number == 1 and isinstance(space.get("mask_ratio"), Uniform):
            # A draw from an interval never hits its end: one trial of every such search is given no masking at all.
            point["mask_ratio"] = 0.0
        if work(point) not in used:
            return point
    if unused is None:
        return point
    return unused[_seed(seed, grade, number, MAX_ASKS) % len(unused)]


def _ask(
    space: Space, history: Sequence[Observation], seed: int, algorithm: Algorithm, startup_trials: int
) -> dict[str, Any]:
    """One draw of a fresh sampler over a study rebuilt from the history."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler: optuna.samplers.BaseSampler
    if algorithm == "tpe":
        sampler = optuna.samplers.TPESampler(multivariate=True, n_startup_trials=startup_trials, seed=seed)
    else:
        sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = {name: _to_optuna(space[name]) for name in sorted(space)}
    for observation in sorted(history, key=lambda one: one.number):
        if observation.value is not None and math.isfinite(observation.value):
            study.add_trial(_to_trial(space, distributions, observation))
    drawn = study.ask(distributions).params
    return {name: _from_optuna(space[name], drawn[name]) for name in sorted(space)}


def _to_optuna(distribution: Distribution) -> optuna.distributions.BaseDistribution:
    import optuna

    if isinstance(distribution, Choice):
        return optuna.distributions.CategoricalDistribution(range(len(distribution.choice)))
    if isinstance(distribution, Uniform):
        return optuna.distributions.FloatDistribution(*distribution.uniform)
    return optuna.distributions.FloatDistribution(*distribution.log_uniform, log=True)


def _to_trial(
    space: Space, distributions: Mapping[str, optuna.distributions.BaseDistribution], observation: Observation
) -> optuna.trial.FrozenTrial:
    import optuna

    params = {
        name: _values(distribution).index(_plain(observation.parameters[name]))
        if isinstance(distribution, Choice)
        else observation.parameters[name]
        for name, distribution in space.items()
    }
    return optuna.trial.create_trial(params=params, distributions=dict(distributions), value=observation.value)


def _from_optuna(distribution: Distribution, drawn: Any) -> Any:
    return _values(distribution)[drawn] if isinstance(distribution, Choice) else float(drawn)


def _values(distribution: Distribution) -> list[Any]:
    assert isinstance(distribution, Choice)
    return [_plain(value) for value in distribution.choice]


def _points(space: Space) -> int:
    return math.prod(len(_values(distribution)) for distribution in space.values())


def _seed(*parts: int) -> int:
    text = "-".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
