"""What a campaign has shown so far, as numbers: the result of every grade.

Everything is read from the campaign's state and its configuration; what comparisons make of it is `comparison.py`, how it looks is `report.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raydistill.config.schema import CampaignConfig, GradeSection
from raydistill.config.space import is_distribution
from raydistill.planning.grades import lineages_of
from raydistill.planning.masking import applied_masking
from raydistill.planning.records import LAYERS, MRR, TrialRecord
from raydistill.planning.state import CampaignState

_MRR = re.compile(r"test/both/mrr(?P<suffix>(\+\w+)?)")


@dataclass(frozen=True)
class GradeResult:
    """The promoted student of one grade, or the teacher.

    Attributes:
        lineage: the ladder.
        grade: 0 is the teacher.
        folder: the grade's name on disk.
        layers: depth.
        parameters: trained and frozen ones together.
        bytes: size of the checkpoint's weights.
        mask_ratio: share of masked tokens; None for the teacher.
        layer_map: a rule's name or the layers; None for the teacher.
        view: shared or separate; None for the teacher, and where nothing was masked.
        epoch: the epoch that was promoted.
        valid_mrr: what promoted it.
        metrics: filtered test metrics over both directions under the realistic tie rule: mr, mrr, hits@1, hits@3, hits@10.
        kept: share of the lineage's teacher MRR; None without a tested teacher.
        checkpoint: the promoted directory.
        seconds: time of the promoted trial's steps, without its validations; None where that was not reported.
    """

    lineage: str
    grade: int
    folder: str
    layers: int | None
    parameters: float | None
    bytes: float | None
    mask_ratio: Any
    layer_map: Any
    view: Any
    epoch: int
    valid_mrr: float | None
    metrics: dict[str, float]
    kept: float | None
    checkpoint: str
    seconds: float | None = None


def suffixes(state: CampaignState) -> list[str]:
    """How test scores were made: the empty string for plain ones, `+neighbors` where they were re-ranked."""
    found = {match["suffix"] for metrics in state.tests.values() for name in metrics if (match := _MRR.fullmatch(name))}
    return sorted(found) or [""]


def grade_results(state: CampaignState, config: CampaignConfig, suffix: str = "") -> list[GradeResult]:
    """The promoted student of every grade, lineage by lineage, teacher first."""
    order = {lineage: index for index, lineage in enumerate(state.lineages)}
    keys = sorted(state.promotions, key=lambda key: (order.get(key[0], len(order)), key[1]))
    return [_result(state, config, *key, suffix) for key in keys]


def promoted_trial(state: CampaignState, lineage: str, grade: int) -> TrialRecord | None:
    """The trial whose checkpoint was promoted; None for a teacher that was given."""
    identity = state.promotions[lineage, grade].identity
    return next((record for record in state.of(lineage, grade) if record.identity == identity), None)


def _result(state: CampaignState, config: CampaignConfig, lineage: str, grade: int, suffix: str) -> GradeResult:
    promotion = state.promotions[lineage, grade]
    record = promoted_trial(state, lineage, grade)
    section = config.grades[grade - 1] if 0 < grade <= len(config.grades) else None
    facts = state.tests.get((lineage, grade), {})
    metrics = _both(facts, suffix)
    teacher = _both(state.tests.get((lineage, 0), {}), suffix).get("mrr")
    planned = promotion.metrics.get(LAYERS, section.layers if section else config.teacher.layers)
    layers = facts.get("layers", planned)
    ratio, view = _masking(config, lineage, section, record)
    return GradeResult(
        lineage=lineage,
        grade=grade,
        folder=state.folder(grade),
        layers=None if layers is None else int(layers),
        parameters=facts.get("parameters"),
        bytes=facts.get("bytes"),
        mask_ratio=ratio,
        layer_map=_chosen("layer_map", section, record),
        view=view,
        epoch=promotion.epoch,
        valid_mrr=promotion.metrics.get(MRR),
        metrics=metrics,
        kept=metrics["mrr"] / teacher if teacher and "mrr" in metrics else None,
        checkpoint=promotion.checkpoint,
        seconds=_seconds(record),
    )


def _seconds(record: TrialRecord | None) -> float | None:
    taken = [one["metrics"]["seconds"] for one in record.reports if "seconds" in one["metrics"]] if record else []
    return sum(taken) if taken else None


def _both(facts: Mapping[str, float], suffix: str) -> dict[str, float]:
    named = {name: f"test/both/{name}{suffix}" for name in ("mr", "mrr", "hits@1", "hits@3", "hits@10")}
    return {name: facts[key] for name, key in named.items() if key in facts}


def _masking(
    config: CampaignConfig, lineage: str, section: GradeSection | None, record: TrialRecord | None
) -> tuple[Any, Any]:
    """Mask ratio and view as they were applied, not as they were asked for."""
    ratio, view = _chosen("mask_ratio", section, record), _chosen("view", section, record) or config.view
    if section is None or ratio is None:
        return None, None
    ladder = next((one for one in lineages_of(config) if one.name == lineage), None)
    method = section.method or (ladder.method if ladder is not None else config.method)
    ratio, view = applied_masking(method, ratio, view)
    # Without masks there is one view only, whatever its name.
    return ratio, view if ratio else None


def _chosen(name: str, section: GradeSection | None, record: TrialRecord | None) -> Any:
    """A value of the promoted trial: the searched one, else the fixed one of its grade."""
    if section is None:
        return None
    if record is not None and name in record.parameters:
        return record.parameters[name]
    fixed = getattr(section, name)
    return None if is_distribution(fixed) else fixed
