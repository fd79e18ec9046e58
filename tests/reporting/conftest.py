"""Campaigns told as events, small enough to check their tables by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import pytest

from raydistill.config.load import parse_config
from raydistill.config.schema import CampaignConfig
from raydistill.planning.state import CampaignState, replay

GRADES = ["0-teacher", "1-layers2"]
FULL_SIZE = 90.5 * 2**20


class Race(Protocol):
    """Builds a campaign that compares methods: test MRR of each label's students by seed, and their bytes where they are not of full size."""

    def __call__(
        self,
        methods: list[dict[str, Any]],
        students: Mapping[str, Sequence[float | None]],
        sizes: Mapping[str, Sequence[float]] = ...,
    ) -> tuple[CampaignState, CampaignConfig]: ...


def config_of(**changes: Any) -> CampaignConfig:
    grade = {"layers": 2, "mask_ratio": {"choice": [0.0, 0.2]}, "layer_map": "uniform"}
    content = {"data": {"path": "d"}, "encoder": {"name": "e"}, "grades": [grade], "view": "shared", **changes}
    return parse_config(content)


def report_event(lineage: str, grade: int, number: int, epoch: int, mrr: float, outcome: str) -> dict[str, Any]:
    metrics = {
        "valid/both/mrr": mrr,
        "loss": 2.5,
        "loss/ce": 2.25,
        "loss/score": 0.5,
        "seconds": 30.0,
        "examples_per_second": 120.0,
    }
    place = {"lineage": lineage, "grade": grade, "number": number}
    checkpoint = {"checkpoint": f"/run/{lineage}/{grade}/{number}/{epoch}", "digest": f"{grade}{number}{epoch}"}
    return {
        "kind": "trial_reported",
        **place,
        **checkpoint,
        "epoch": epoch,
        "metrics": metrics,
        "outcome": outcome,
        "time": epoch,
    }


def trial_events(
    lineage: str, grade: int, number: int, parameters: dict[str, Any], mrrs: Iterable[float], epochs: int | None = None
) -> list[dict[str, Any]]:
    """A trial with one report per value; finished unless it was given more epochs than values."""
    values = list(mrrs)
    given = epochs or len(values)
    place = {"lineage": lineage, "grade": grade, "number": number}
    begun = {"kind": "trial_begun", **place, "identity": f"{lineage}-{grade}-{number}", "time": 0.0}
    events = [{**begun, "parameters": parameters, "epochs": given}]
    for epoch, value in enumerate(values, start=1):
        events.append(report_event(lineage, grade, number, epoch, value, "finished" if epoch == given else "running"))
    return events


def promoted(lineage: str, grade: int, number: int, epoch: int, mrr: float) -> dict[str, Any]:
    return {
        "kind": "grade_promoted",
        "lineage": lineage,
        "grade": grade,
        "identity": f"{lineage}-{grade}-{number}",
        "checkpoint": f"/run/{lineage}/{grade}/{number}/{epoch}",
        "digest": f"{grade}{number}{epoch}",
        "epoch": epoch,
        "metrics": {"valid/both/mrr": mrr},
        "time": 9.0,
    }


def scored(lineage: str, grade: int, mrr: float, suffix: str = "", bytes: float = FULL_SIZE) -> dict[str, Any]:
    values = {"mr": 12.5, "mrr": mrr, "hits@1": 0.25, "hits@3": 0.5, "hits@10": mrr + 0.25}
    metrics = {f"test/both/{name}{suffix}": value for name, value in values.items()}
    sizes = {"parameters": 22_700_000.0 / (grade + 1), "bytes": bytes, "layers": 6.0 - 4 * grade}
    return {
        "kind": "promotion_tested",
        "lineage": lineage,
        "grade": grade,
        "metrics": {**metrics, **sizes},
        "time": 10.0,
    }


def started(lineages: list[str]) -> dict[str, Any]:
    return {"kind": "campaign_started", "config_fingerprint": "f", "lineages": lineages, "grades": GRADES, "time": 0.0}


@pytest.fixture
def events() -> list[dict[str, Any]]:
    """A finished ladder: a teacher, then two trials of which the second is promoted for its first epoch."""
    return [
        started(["main"]),
        *trial_events("main", 0, 0, {}, [0.4, 0.5]),
        promoted("main", 0, 0, 2, 0.5),
        *trial_events("main", 1, 0, {"mask_ratio": 0.0}, [0.3, 0.35]),
        *trial_events("main", 1, 1, {"mask_ratio": 0.2}, [0.45, 0.4]),
        promoted("main", 1, 1, 1, 0.45),
        scored("main", 0, 0.5),
        scored("main", 1, 0.4),
    ]


@pytest.fixture
def state(events: list[dict[str, Any]]) -> CampaignState:
    return replay(events)


@pytest.fixture
def config() -> CampaignConfig:
    return config_of()


@pytest.fixture
def compared() -> tuple[CampaignState, CampaignConfig]:
    """Two methods over two seeds; the second seed of `none` has not been tested yet."""
    methods = [{"name": "pmd"}, {"name": "none"}]
    config = config_of(compare={"methods": methods, "seeds": [0, 1]})
    names = ["pmd-seed0", "pmd-seed1", "none-seed0", "none-seed1"]
    events = [started(names)]
    for name, student in zip(names, (0.40, 0.44, 0.30, None), strict=True):
        events += [*trial_events(name, 0, 0, {}, [0.5]), promoted(name, 0, 0, 1, 0.5), scored(name, 0, 0.5)]
        if student is not None:
            events += [*trial_events(name, 1, 0, {"mask_ratio": 0.2}, [student]), promoted(name, 1, 0, 1, student)]
            events.append(scored(name, 1, student))
    return replay(events), config


@pytest.fixture
def race() -> Race:
    """Builds campaigns that compare methods; an MRR of None = not tested yet."""

    def build(
        methods: list[dict[str, Any]],
        students: Mapping[str, Sequence[float | None]],
        sizes: Mapping[str, Sequence[float]] = MappingProxyType({}),
    ) -> tuple[CampaignState, CampaignConfig]:
        events = [started([f"{label}-seed{seed}" for label, mrrs in students.items() for seed in range(len(mrrs))])]
        for label, mrrs in students.items():
            for seed, mrr in enumerate(mrrs):
                name = f"{label}-seed{seed}"
                events += [*trial_events(name, 0, 0, {}, [0.5]), promoted(name, 0, 0, 1, 0.5), scored(name, 0, 0.5)]
                if mrr is not None:
                    test = scored(name, 1, mrr, bytes=sizes[label][seed] if label in sizes else FULL_SIZE)
                    events += [*trial_events(name, 1, 0, {}, [mrr]), promoted(name, 1, 0, 1, mrr), test]
        seeds = list(range(len(next(iter(students.values())))))
        return replay(events), config_of(compare={"methods": methods, "seeds": seeds})

    return build


@pytest.fixture
def measured() -> tuple[CampaignState, CampaignConfig]:
    """One method over two seeds, whose students took 20 and 40 seconds in two epochs, and 4,000 and 6,000 bytes."""
    names = ["pmd-seed0", "pmd-seed1"]
    events = [started(names)]
    for name, seconds, size in zip(names, (10.0, 20.0), (4000, 6000), strict=True):
        events += [*trial_events(name, 0, 0, {}, [0.5]), promoted(name, 0, 0, 1, 0.5), scored(name, 0, 0.5)]
        trial = trial_events(name, 1, 0, {}, [0.3, 0.4])
        for event in trial[1:]:
            event["metrics"]["seconds"] = seconds
        test = scored(name, 1, 0.4)
        test["metrics"]["bytes"] = size
        events += [*trial, promoted(name, 1, 0, 2, 0.4), test]
    return replay(events), config_of(compare={"methods": [{"name": "pmd"}], "seeds": [0, 1]})
