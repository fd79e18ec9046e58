"""The search over whole ladders: how many grades, how deep, how much masked, by which weights; and which ladders nobody beats.

Proposing is a pure function of the ladders that are finished, as in `search.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from raydistill.config.ladders import LadderSearchSection, Objective
from raydistill.config.load import parse_config
from raydistill.config.schema import CampaignConfig

if TYPE_CHECKING:
    import optuna

DIRECTIONS: Mapping[Objective, Literal["maximize", "minimize"]] = {
    "mrr": "maximize",
    "bytes": "minimize",
    "latency": "minimize",
}
MAX_ASKS = 50


@dataclass(frozen=True)
class LadderResult:
    """A ladder that was run.

    Attributes:
        number: place in the search, from 0.
        point: what was drawn; see `propose_ladder`.
        values: by objective: valid MRR of the last grade, bytes of its weights, milliseconds per query on one CPU thread; empty where a
            grade of the ladder could not promote.
        reason: why it could not.
    """

    number: int
    point: Mapping[str, Any]
    values: Mapping[Objective, float]
    reason: str = ""


def shares_teacher(config: CampaignConfig) -> bool:
    """Whether the ladders of a search train one teacher for all: the first does, and the others take it from there."""
    return config.storage.share_trials and config.teacher.checkpoint is None


def next_ladder(
    config: CampaignConfig, results: Sequence[LadderResult], running: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any] | None:
    """The point of the ladder that follows those that were run, and the points of those that still are; None when there is none left to run."""
    section = config.ladders
    assert section is not None, "a search over ladders needs a `ladders` section"
    number = len(results) + len(running)
    if number >= section.ladders:
        return None
    return propose_ladder(section, results, number, config.seed, running)


def propose_ladder(
    section: LadderSearchSection,
    results: Sequence[LadderResult],
    number: int,
    seed: int,
    running: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any] | None:
    """The point of ladder `number`: `grades`, and for every possible grade i `layers.i`, `mask_ratio.i` and `layer_map.i`, and `alpha`, `beta`.

    Two points that come to the same ladder are tried once; None when a new one was not found. TPE takes `running` points for bad ones, so that
    what is tried beside them lies elsewhere.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = {_key(ladder_of(section, point)) for point in (*(one.point for one in results), *running)}
    space = _space(section)
    for attempt in range(MAX_ASKS):
        study = optuna.create_study(
            directions=list(map(DIRECTIONS.__getitem__, section.objectives)),
            sampler=optuna.samplers.TPESampler(
                multivariate=True,
                n_startup_trials=section.startup_ladders,
                constant_liar=bool(running),
                seed=_seed(seed, number, attempt),
            ),
        )
        for result in (one for one in results if one.values):
            values = [result.values[name] for name in section.objectives]
            point = dict(result.point)
            study.add_trial(optuna.trial.create_trial(params=point, distributions=dict(space), values=values))
        for point in map(dict, running):
            state = optuna.trial.TrialState.RUNNING
            study.add_trial(optuna.trial.create_trial(params=point, distributions=dict(space), state=state))
        drawn = dict(study.ask(dict(space)).params)
        if _key(ladder_of(section, drawn)) not in known:
            return drawn
    return None


def ladder_of(section: LadderSearchSection, point: Mapping[str, Any]) -> dict[str, Any]:
    """What a point comes to: `grades`, each with layers, mask ratio and layer map, and the weights.

    Depths fall down the ladder whatever was drawn, and so do mask ratios where the section asks for it: the drawn values are sorted. Of equal depths one is
    left; where too few are, the first that were not drawn make up for them.
    """
    count = int(point["grades"])
    drawn = list(dict.fromkeys(int(point[f"layers.{i}"]) for i in range(count)))
    others = [depth for depth in dict.fromkeys(section.depths) if depth not in drawn]
    layers = sorted(drawn + others[: max(0, section.grades[0] - len(drawn))], reverse=True)
    masks = [float(point[f"mask_ratio.{i}"]) for i in range(len(layers))]
    if section.falling_masks:
        masks.sort(reverse=True)
    maps = [point[f"layer_map.{i}"] for i in range(len(layers))]
    grades = [
        {"layers": depth, "mask_ratio": mask, "layer_map": rule}
        for depth, mask, rule in zip(layers, masks, maps, strict=True)
    ]
    return {"grades": grades, "alpha": float(point["alpha"]), "beta": float(point["beta"])}


def ladder_config(config: CampaignConfig, ladder: Mapping[str, Any]) -> CampaignConfig:
    """The campaign of one ladder: everything else is as `config` and its first grade say.

    Raises:
        ConfigError: it is refused, as the same campaign from a file would be.
    """
    first = config.grades[0].model_dump(mode="json")
    grades = [{**first, **grade, "trials": 1} for grade in ladder["grades"]]
    method = {**config.method.model_dump(mode="json"), "alpha": ladder["alpha"], "beta": ladder["beta"]}
    whole = config.model_dump(mode="json")
    resources = {**whole["resources"], "concurrent_ladders": 1}
    content = {**whole, "grades": grades, "method": method, "resources": resources, "ladders": None}
    return parse_config(content, where="a ladder of the search")


def ladder_in(config: CampaignConfig) -> dict[str, Any]:
    """The reverse of `ladder_config`: what `ladder_of` said of the ladder that a campaign was made of."""
    grades = [one.model_dump(mode="json", include={"layers", "mask_ratio", "layer_map"}) for one in config.grades]
    return {"grades": grades, **config.method.model_dump(mode="json", include={"alpha", "beta"})}


def described(section: LadderSearchSection, results: Sequence[LadderResult]) -> list[dict[str, Any]]:
    """What is told of ladders that were run, in types JSON knows: their shape, what came of them, and whether none beats them."""
    best = {one.number for one in pareto(results, section.objectives)}
    return [
        {
            **ladder_of(section, one.point),
            "number": one.number,
            "status": "finished" if one.values else "failed",
            "values": dict(one.values),
            "reason": one.reason,
            "pareto": one.number in best,
        }
        for one in results
    ]


def pareto(results: Sequence[LadderResult], objectives: Sequence[Objective]) -> list[LadderResult]:
    """The results that no other one beats: none is at least as good in every objective and better in one."""
    ended = [one for one in results if one.values]
    return [one for one in ended if not any(_beats(other, one, objectives) for other in ended)]


def _beats(left: LadderResult, right: LadderResult, objectives: Sequence[Objective]) -> bool:
    signs = [1.0 if DIRECTIONS[name] == "maximize" else -1.0 for name in objectives]
    gains = [sign * (left.values[name] - right.values[name]) for sign, name in zip(signs, objectives, strict=True)]
    return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)


def _space(section: LadderSearchSection) -> dict[str, optuna.distributions.BaseDistribution]:
    import optuna

    categories = optuna.distributions.CategoricalDistribution
    space: dict[str, optuna.distributions.BaseDistribution] = {
        "grades": optuna.distributions.IntDistribution(*section.grades),
        "alpha": categories(section.alphas),
        "beta": categories(section.betas),
    }
    for i in range(section.grades[1]):
        space[f"layers.{i}"] = categories(section.depths)
        space[f"mask_ratio.{i}"] = categories(section.mask_ratios)
        space[f"layer_map.{i}"] = categories(section.layer_maps)
    return space


def _key(ladder: Mapping[str, Any]) -> str:
    return json.dumps(ladder, sort_keys=True)


def _seed(*parts: int) -> int:
    return int.from_bytes(hashlib.sha256("-".join(map(str, parts)).encode()).digest()[:4], "big")
