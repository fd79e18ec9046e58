"""Which campaigns are told that they will never use all GPUs."""

from __future__ import annotations

from typing import Any

import pytest

from raydistill.config.load import parse_config
from raydistill.config.schema import CampaignConfig
from raydistill.orchestration.idle import tell_of_spare_gpus, trials_at_once
from raydistill.planning.grades import grade_plans
from raydistill.planning.ground import Ground

GROUND = Ground("d" * 64, "e" * 64, 12)
SEARCHED = {"layers": 3, "mask_ratio": {"choice": [0.0, 0.1, 0.2]}}


def campaign(**sections: Any) -> CampaignConfig:
    """A teacher, a searched grade and one of a single trial."""
    grades = [SEARCHED, {"layers": 2}]
    return parse_config({"data": {"path": "d"}, "encoder": {"name": "e"}, "grades": grades, **sections})


@pytest.mark.parametrize(
    ("sections", "trials"),
    [
        ({}, 1),
        ({"search": {"trials": 2}}, 2),
        ({"search": {"trials": 9}}, 3),
        ({"search": {"trials": 2}, "schedule": {"name": "pipelined"}}, 4),
        ({"search": {"trials": 2}, "compare": {"methods": [{"name": "pmd"}, {"name": "none"}], "seeds": [0, 1]}}, 8),
    ],
)
def test_trials_at_once_by_hand(sections: dict[str, Any], trials: int) -> None:
    """One after another counted as at once, or lineages not counted: advice to use more of what is used already."""
    config = campaign(**sections)
    assert trials_at_once(config, grade_plans(config, GROUND)) == trials


@pytest.mark.parametrize(
    ("resources", "gpus", "told"),
    [
        (
            {"gpus_per_worker": 1},
            2.0,
            "more than 1 (1 trials at once of 1 workers): set resources.workers_per_trial to 2",
        ),
        (
            {"gpus_per_worker": 0.5},
            2.0,
            "more than 0.5 (1 trials at once of 1 workers): set resources.workers_per_trial to 4",
        ),
        ({"gpus_per_worker": 1, "workers_per_trial": 2}, 2.0, ""),
        ({"gpus_per_worker": 1}, 1.0, ""),
        ({"gpus_per_worker": 1 / 3, "workers_per_trial": 3}, 1.0, ""),
        ({"gpus_per_worker": 0.5}, 1.0, ""),
        ({"gpus_per_worker": 0}, 2.0, ""),
        ({"gpus_per_worker": 1}, 0.0, ""),
    ],
)
def test_second_gpu_that_nobody_will_use_is_told_of(
    caplog: pytest.LogCaptureFixture, resources: dict[str, Any], gpus: float, told: str
) -> None:
    """Two GPUs, one trial a grade: half of what was paid for stands still, and nothing says so."""
    config = campaign(resources={**resources, "concurrent_trials": 1})
    tell_of_spare_gpus(config, grade_plans(config, GROUND), config.resources, gpus)
    assert len(caplog.messages) == bool(told)
    assert told in caplog.text
