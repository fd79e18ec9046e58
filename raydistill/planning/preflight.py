"""What can be refused before anything is trained: every grade, with every value its search may choose, must fit the encoder and its teacher."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from raydistill.config.other_teachers import takes_earlier
from raydistill.config.schema import CampaignConfig
from raydistill.config.space import Choice, LogUniform, Uniform, bounds
from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.errors import CapabilityError, ConfigError
from raydistill.planning.assistants import assistant_problems
from raydistill.planning.grades import (
    GradePlan,
    Lineage,
    grade_plans,
    lineages_of,
    method_of,
    possible_layers,
    teaching_grade,
    trial_config,
)
from raydistill.planning.ground import Ground
from raydistill.planning.hints import tell
from raydistill.planning.search import Space, grade_space, grid, trial_limit
from raydistill.planning.shapes import growth_problems, reading_problems, shape_problems, structural_problems
from raydistill.planning.widths import assistant_size_problems, encoder_sizes, sizes_of, width_problems

STAND_IN = TeacherReference(path="", digest="")
SHAPING = ("layer_map", "init")
FITTING = ("width", "intermediate", "relation_heads", "teacher_layer", "groups", "stages")
"""Values of methods that fit each other, or do not."""


def preflight(config: CampaignConfig, ground: Ground) -> tuple[GradePlan, ...]:
    """Check every grade of every lineage and return the grades.

    Raises:
        CapabilityError: naming every combination that cannot be trained.
        ConfigError: a grid search over an interval.
    """
    problems = [*_kind(config), *_depths(config, ground), *_workers(config)]
    if not problems:
        plans = grade_plans(config, ground)
        pairs = itertools.product(lineages_of(config), plans)
        problems = [
            problem
            for lineage, plan in pairs
            for check in (_found_shapes, _grade)
            for problem in check(config, lineage, plan, ground)
        ]
    if problems:
        distinct = list(dict.fromkeys(problems))
        raise CapabilityError(
            f"{len(distinct)} part{'s' if len(distinct) > 1 else ''} of the configuration cannot be trained\n  - "
            + "\n  - ".join(distinct),
            expected="grades that fit the encoder, their teachers and the cluster, with every value a search may choose",
            consequence="the campaign would fail only after the grades above were trained, so nothing was started",
            remedy="mend the grades named above",
        )
    tell(config, plans, ground)
    return plans


def _kind(config: CampaignConfig) -> Iterator[str]:
    if config.ladders is not None:
        yield "`ladders` asks for a search over ladders, not for one campaign: use `raydistill run`, or LadderSearch instead of Campaign"


def _depths(config: CampaignConfig, ground: Ground) -> Iterator[str]:
    plans = grade_plans(config, ground)
    if config.teacher.checkpoint is None and plans[0].layers > ground.encoder_layers:
        yield f"a teacher of {plans[0].layers} layers from an encoder of {ground.encoder_layers}"
    for above, below in itertools.pairwise(plans):
        if below.layers > above.layers:
            yield f"grade {below.folder} is deeper than {above.folder} above it, which has {above.layers} layers"


def _workers(config: CampaignConfig) -> Iterator[str]:
    resources, batch = config.resources, config.training.batch_size
    if resources.backend == "inline" and resources.most_workers > 1:
        yield f"backend inline with {resources.most_workers} workers per trial: inline trials have one; use train"
    if batch < resources.most_workers:
        yield f"a batch of {batch} examples for {resources.most_workers} workers: not one for each"


def _grade(config: CampaignConfig, lineage: Lineage, plan: GradePlan, ground: Ground) -> Iterator[str]:
    space = grade_space(lineage, plan)
    if config.search.algorithm == "grid":
        grid(space)
    shapes, numbers = _points(space, SHAPING), _highest(space)
    highest = [{**shape, **numbers} for shape in shapes if numbers]
    for point in [*shapes, *filter(None, _points(space, FITTING)), *_ends(space), *highest]:
        try:
            trial = trial_config(config, lineage, plan, {**_some_point(space), **point}, ground, STAND_IN)
        except ConfigError as problem:
            chosen = f" with {point}" if point else ""
            expected = f"; expected {problem.expected}" if problem.expected else ""
            yield f"grade {plan.folder}{chosen}: {problem.received}{expected}"
        else:
            if plan.section is not None:
                problems = _misfits(config, lineage, plan, trial, ground)
                yield from (f"grade {plan.folder}: {problem}" for problem in problems)


def _misfits(
    config: CampaignConfig, lineage: Lineage, plan: GradePlan, trial: TrialConfig, ground: Ground
) -> Iterator[str]:
    """What of a trial's method does not fit the models it compares, whatever the grade above promotes."""
    above = grade_plans(config, ground)[teaching_grade(config, plan.index)]
    further_up = takes_earlier(method_of(lineage, plan)) and config.schedule.name == "sequential"
    if trial.teacher is not None and (above.index == 0 or further_up):
        yield from reading_problems(ground, config.data.max_tokens)
    yield from structural_problems(trial.method, trial.others, ground.structural)
    yield from growth_problems(trial.method, plan.layers, trial.training.epochs, ground.num_relations)
    depths = possible_layers(config, lineage, above, ground)
    for depth in depths:
        yield from assistant_problems(trial.method, plan.layers, depth)
    for teacher in sizes_of(config, lineage, above.index, ground):
        first = teacher if trial.init == "teacher" else encoder_sizes(ground)
        yield from width_problems(trial, first, teacher)
        for depth in depths:
            yield from shape_problems(trial.method, first.hidden, depth)
            yield from assistant_size_problems(trial.method, first, teacher, depth)


def _found_shapes(config: CampaignConfig, lineage: Lineage, plan: GradePlan, ground: Ground) -> Iterator[str]:
    """Of a grade below one whose depth is found while it trains, or whose trials end with several widths."""
    if plan.section is None:
        return
    above = grade_plans(config, ground)[teaching_grade(config, plan.index)]
    depths = possible_layers(config, lineage, above, ground)
    if plan.layers > depths[0]:
        yield (
            f"grade {plan.folder} is deeper than an assistant of {depths[0]} layers that grade {above.folder} may promote; leave student_layers of that "
            f"grade out, or raise it to at least {plan.layers}"
        )
    trials = trial_limit(grade_space(lineage, above), above, config.search.algorithm)
    if len(depths) > 1 and trials > 1 and config.schedule.name == "pipelined":
        yield (
            f"grade {above.folder} searches {trials} trials, and each may find another depth: under the pipelined schedule the teacher of {plan.folder} would "
            "change its layers on the way; search nothing in that grade, or set schedule.name to sequential"
        )
    sizes = sizes_of(config, lineage, above.index, ground)
    if len(sizes) > 1 and trials > 1 and config.schedule.name == "pipelined":
        yield (
            f"grade {above.folder} searches {trials} trials, and they end with different widths or numbers of heads: under the pipelined schedule the teacher of {plan.folder}, what is "
            "kept of it and who starts from it would change their shape on the way; give that grade one width (no method.intermediate) and one init, or set schedule.name to sequential"
        )


def _points(space: Space, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Every combination of the values of these names, whichever part of a method they are of: they decide together whether a student can be built."""
    return grid({name: values for name, values in space.items() if name.rpartition(".")[2] in names})


def _ends(space: Space) -> list[dict[str, Any]]:
    """Both ends of every interval and all values of every choice, one at a time: a method's bounds are checked where its values are resolved."""
    return [
        {name: value}
        for name, distribution in space.items()
        if name not in SHAPING and name.rpartition(".")[2] not in FITTING
        for value in (distribution.choice if isinstance(distribution, Choice) else bounds(distribution))
    ]


def _highest(space: Space) -> dict[str, Any]:
    """The highest of every number at once: terms that need each other are all at work there, such as masked features and masks."""
    return {
        name: bounds(distribution)[1]
        for name, distribution in space.items()
        if name.rpartition(".")[2] not in (*SHAPING, *FITTING) and _of_numbers(distribution)
    }


def _some_point(space: Space) -> dict[str, Any]:
    """One value for everything else: the lowest, with which least fits, of what is a number."""
    return {name: _lowest(distribution) for name, distribution in space.items()}


def _lowest(distribution: Choice[Any] | Uniform | LogUniform) -> Any:
    if isinstance(distribution, Choice) and not _of_numbers(distribution):
        return distribution.choice[0]
    return bounds(distribution)[0]


def _of_numbers(distribution: Choice[Any] | Uniform | LogUniform) -> bool:
    return not isinstance(distribution, Choice) or all(isinstance(one, (int, float)) for one in distribution.choice)
