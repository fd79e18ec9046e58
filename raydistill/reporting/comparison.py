"""Methods beside each other: every method at every grade over the seeds, and what it is ahead of a student of its size without a teacher, seed by seed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raydistill.config.methods import Method, is_baseline, label_of, parts_of
from raydistill.config.schema import CampaignConfig
from raydistill.planning.grades import Lineage, lineages_of
from raydistill.planning.state import CampaignState
from raydistill.reporting.results import GradeResult, grade_results
from raydistill.reporting.table import plain

EVERY = "every method"
"""What a row of a comparison is called that all methods share."""
Seeds = Mapping[int, GradeResult]
"""What was tested of one method at one grade, by seed."""
SAME_SIZE = 1e-3
"""Share of its bytes by which one student may differ from another and be as large: what a file says of itself, and not a tensor."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; no deviation is claimed from one seed."""

    mean: float
    deviation: float | None
    seeds: int


@dataclass(frozen=True)
class Difference:
    """What a method has more than another with the same seed: that takes out what a seed's teacher is like.

    Attributes:
        mean: of the differences.
        above: in how many seeds it is above 0.
        seeds: tested for both.
    """

    mean: float
    above: int
    seeds: int


@dataclass(frozen=True)
class Comparison:
    """One method at one grade, over seeds.

    Attributes:
        method: its label; EVERY for a grade that all of them share.
        grade: 0 is the teacher.
        folder: the grade's name on disk.
        mrr: filtered test MRR over both directions under the realistic tie rule.
        hits_at_10: likewise.
        kept: share of the teacher's MRR; None without a tested teacher.
        bytes: mean size of the checkpoints' weights; None where it is not known.
        seconds: mean time of the promoted trials' steps, without validations; None likewise.
        settings: what tells it apart from the others of its name; empty where there is none.
        baseline: label of the first compared method without a teacher whose students are as large; None for such a method itself, for shared grades, and
            where nothing of that size was tested.
        mrr_less_baseline: of the MRR, to that one at the same grade; None without it, and where no seed has both.
        hits_at_10_less_baseline: likewise.
    """

    method: str
    grade: int
    folder: str
    mrr: Spread
    hits_at_10: Spread
    kept: Spread | None
    bytes: float | None = None
    seconds: float | None = None
    settings: str = ""
    baseline: str | None = None
    mrr_less_baseline: Difference | None = None
    hits_at_10_less_baseline: Difference | None = None


def comparisons(state: CampaignState, config: CampaignConfig, suffix: str = "") -> list[Comparison]:
    """Mean and spread of every method at every grade, over the seeds that have been tested there. Empty without `compare`."""
    if config.compare is None:
        return []
    results = {(result.lineage, result.grade): result for result in grade_results(state, config, suffix)}
    by_method: dict[str, list[Lineage]] = {}
    for lineage in lineages_of(config):
        by_method.setdefault(_label(lineage), []).append(lineage)

    def tested(method: str, grade: int) -> Seeds:
        found = {one.seed: results.get((one.name, grade)) for one in by_method[method]}
        return {seed: result for seed, result in found.items() if result is not None and "mrr" in result.metrics}

    def as_large(own: Seeds, grade: int) -> tuple[str | None, Seeds]:
        candidates = ((label, tested(label, grade)) for label in baselines)
        return next(((label, others) for label, others in candidates if _as_large(own, others)), (None, {}))

    rows, shared, baselines = [], shared_grades(config), baselines_of(config)
    for method, lineages in by_method.items():
        for grade, folder in enumerate(state.grades):
            common = grade < shared
            if common and method != next(iter(by_method)):
                # One row for what is the same under every method.
                continue
            if own := tested(method, grade):
                baseline, others = (None, {}) if common or method in baselines else as_large(own, grade)
                settings = "" if common or label_of(lineages[0].method) == method else settings_of(lineages[0].method)
                label = EVERY if common else method
                rows.append(_row(label, settings, grade, folder, own, baseline, others))
    return rows


def baselines_of(config: CampaignConfig) -> tuple[str, ...]:
    """Labels of the compared methods that train without a teacher: `none`, and those that make a student smaller with all that it would be taught off."""
    found = {_label(lineage): None for lineage in lineages_of(config) if is_baseline(lineage.method)}
    return tuple(found) if config.compare is not None else ()


def settings_of(method: Method) -> str:
    """The values of a section, or of its parts, that are not the default."""
    parts = parts_of(method)
    return ", ".join(
        f"{part.name + '.' if len(parts) > 1 else ''}{name} {plain(value)}"
        for part in parts
        for name, value in part.model_dump(mode="json", exclude_defaults=True).items()
        if name != "name"
    )


def shared_grades(config: CampaignConfig) -> int:
    """Grades, from the teacher down, that are the same under every method that is compared."""
    own = [grade.method is not None for grade in config.grades]
    return 1 + (own.index(False) if False in own else len(own))


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of at least one value."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def difference(values: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    """`values` less `others`, both by seed, over the seeds that both have; None where there is none."""
    found = [value - others[seed] for seed, value in values.items() if seed in others]
    return Difference(statistics.fmean(found), sum(one > 0 for one in found), len(found)) if found else None


def _as_large(own: Seeds, others: Seeds) -> bool:
    mine, theirs = (_mean([result.bytes for result in seeds.values()]) for seeds in (own, others))
    return mine is not None and theirs is not None and abs(mine - theirs) <= SAME_SIZE * theirs


def _row(
    method: str, settings: str, grade: int, folder: str, own: Seeds, baseline: str | None, others: Seeds
) -> Comparison:
    kept = [result.kept for result in own.values() if result.kept is not None]
    mrr, hits = _metric("mrr", own), _metric("hits@10", own)
    return Comparison(
        method,
        grade,
        folder,
        spread(list(mrr.values())),
        spread(list(hits.values())),
        spread(kept) if kept else None,
        _mean([result.bytes for result in own.values()]),
        _mean([result.seconds for result in own.values()]),
        settings,
        baseline,
        difference(mrr, _metric("mrr", others)),
        difference(hits, _metric("hits@10", others)),
    )


def _metric(name: str, seeds: Seeds) -> dict[int, float]:
    return {seed: result.metrics[name] for seed, result in seeds.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _label(lineage: Lineage) -> str:
    return lineage.name.removesuffix(f"-seed{lineage.seed}")
