"""Methods beside each other: every method at every grade over the seeds, and what it is ahead of a student like its own without a teacher, seed by seed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from raydistill.config.baselines import NoneSection
from raydistill.config.methods import Method, is_baseline, shape_of
from raydistill.config.schema import CampaignConfig
from raydistill.planning.grades import Lineage, lineages_of
from raydistill.planning.state import CampaignState
from raydistill.reporting.results import GradeResult, grade_results
from raydistill.reporting.settings import settings_of

EVERY = "every method"
"""What a row of a comparison is called that all methods share."""
Seeds = Mapping[int, GradeResult]
"""What was tested of one method at one grade, by seed."""
Tested = Mapping[tuple[str, int], Seeds]
"""What was tested, by label and grade."""
SAME_SIZE = 1e-3
"""Share of its bytes by which a student may differ from one of the same shape: what checkpoints say of themselves beside their weights."""


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
class Compared:
    """One method among those that are compared.

    Attributes:
        label: its name, and which it is where there are several of it.
        method: its section.
        settings: its values that are not the default, in words.
    """

    label: str
    method: Method
    settings: str


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
        settings: its values that are not the default, in words; empty where there are none.
        baseline: label of what it is measured against: the first compared method without a teacher whose students are of the same shape, number format
            and size; for such a method itself `none`, so that the difference is what its shape costs. None for shared grades, and where there is nothing.
        mrr_less_baseline: of the MRR, to that one at the same grade, over the seeds in which both are tested and as large; None without it.
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
    entries, shared = compared_methods(config), shared_grades(config)
    tested = _tested(state, config, suffix)
    rows = []
    for entry in entries:
        for grade, folder in enumerate(state.grades):
            own = tested.get((entry.label, grade))
            if own and grade >= shared:
                against, others = _measured_against(entry, grade, entries, tested)
                rows.append(_row(entry.label, grade, folder, own, entry.settings, against, others))
            elif own and entry == entries[0]:
                # One row for what is the same under every method.
                rows.append(_row(EVERY, grade, folder, own))
    return rows


def compared_methods(config: CampaignConfig) -> tuple[Compared, ...]:
    """Every method that is compared, in the order of the configuration. Empty without `compare`."""
    if config.compare is None:
        return ()
    methods = {_label(lineage): lineage.method for lineage in lineages_of(config)}
    return tuple(Compared(label, method, settings_of(method)) for label, method in methods.items())


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


def _tested(state: CampaignState, config: CampaignConfig, suffix: str) -> Tested:
    lineages = {lineage.name: lineage for lineage in lineages_of(config)}
    found: dict[tuple[str, int], dict[int, GradeResult]] = {}
    for result in grade_results(state, config, suffix):
        if "mrr" in result.metrics:
            lineage = lineages[result.lineage]
            found.setdefault((_label(lineage), result.grade), {})[lineage.seed] = result
    return found


def _measured_against(
    entry: Compared, grade: int, entries: Sequence[Compared], tested: Tested
) -> tuple[str | None, Seeds]:
    """Label of what a method is measured against, and what was tested of that in the seeds that can be compared."""
    if is_baseline(entry.method):
        whole = next((one for one in entries if isinstance(one.method, NoneSection)), entry)
        others = {} if whole == entry else tested.get((whole.label, grade), {})
        return (whole.label, others) if others else (None, {})
    own = tested[entry.label, grade]
    for one in entries:
        if is_baseline(one.method) and shape_of(one.method) == shape_of(entry.method):
            others = tested.get((one.label, grade), {})
            alike = {seed: other for seed, other in others.items() if seed in own and _as_large(own[seed], other)}
            if alike:
                return one.label, alike
    return None, {}


def _as_large(one: GradeResult, other: GradeResult) -> bool:
    return one.bytes is not None and other.bytes is not None and abs(one.bytes - other.bytes) <= SAME_SIZE * other.bytes


def _row(
    label: str,
    grade: int,
    folder: str,
    own: Seeds,
    settings: str = "",
    baseline: str | None = None,
    others: Seeds = MappingProxyType({}),
) -> Comparison:
    kept = [result.kept for result in own.values() if result.kept is not None]
    mrr, hits = _metric("mrr", own), _metric("hits@10", own)
    return Comparison(
        method=label,
        grade=grade,
        folder=folder,
        mrr=spread(list(mrr.values())),
        hits_at_10=spread(list(hits.values())),
        kept=spread(kept) if kept else None,
        bytes=_mean([result.bytes for result in own.values()]),
        seconds=_mean([result.seconds for result in own.values()]),
        settings=settings,
        baseline=baseline,
        mrr_less_baseline=difference(mrr, _metric("mrr", others)),
        hits_at_10_less_baseline=difference(hits, _metric("hits@10", others)),
    )


def _metric(name: str, seeds: Seeds) -> dict[int, float]:
    return {seed: result.metrics[name] for seed, result in seeds.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _label(lineage: Lineage) -> str:
    return lineage.name.removesuffix(f"-seed{lineage.seed}")
