"""A disk that will be too small is told of before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.planning.disk import tell_of_disk
from raydistill.planning.grades import grade_plans
from raydistill.planning.ground import Ground
from raydistill.planning.state import CampaignState, replay

Maker = Callable[..., CampaignConfig]
BERT = Ground("d", "e", 12, encoder_width=768, encoder_intermediate=3072, encoder_vocabulary=30522)
SEARCHED = {"layers": 6, "mask_ratio": {"uniform": [0.0, 0.2]}}
EACH = 12 * 2 * (31034 * 768 + 6 * 7_087_872)
"""Bytes of a checkpoint of 6 layers."""


def told(campaign: Maker, caplog: pytest.LogCaptureFixture, free: float, ground: Ground = BERT, **sections: Any) -> str:
    config = campaign(SEARCHED, search={"trials": 100}, **sections)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "raydistill.planning.disk"):
        tell_of_disk(config, grade_plans(config, ground), ground, CampaignState(), int(free))
    return "\n".join(caplog.messages)


def test_disk_that_is_too_small_is_told_of(campaign: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """Two days later the disk is full, and nobody knew that a hundred trials keep two checkpoints each."""
    text = told(campaign, caplog, 200e9)
    assert "checkpoints of up to 101 trials" in text
    assert 2 * 100 * EACH == pytest.approx(318.3e9, rel=1e-3)
    assert "need about 326.4 GB, and the run directory's disk has 200.0 GB free" in text
    # Two that are kept, one at work and one with its last words; the teacher's two, and the third while it trains.
    teacher = 12 * 2 * (31034 * 768 + 12 * 7_087_872)
    assert 4 * 2 * EACH + 3 * teacher == pytest.approx(20.6e9, rel=1e-2)
    assert (
        "set storage.keep_trials: 2, which keeps those of the 2 best trials of each grade, and makes it about 20.6 GB"
        in text
    )
    assert told(campaign, caplog, 400e9) == ""


def test_ladders_at_once_divide_the_disk(campaign: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """Four ladders that each find room enough fill the disk together."""
    config = campaign(SEARCHED, search={"trials": 100})
    plans = grade_plans(config, BERT)
    with caplog.at_level(logging.WARNING, "raydistill.planning.disk"):
        tell_of_disk(config, plans, BERT, CampaignState(), int(800e9), 2)
        assert caplog.text == ""
        tell_of_disk(config, plans, BERT, CampaignState(), int(800e9), 4)
    assert "the run directory's disk has 800.0 GB free for 4 ladders at once;" in caplog.text


def test_trials_that_lineages_may_share_are_all_there_until_both_have_promoted(
    campaign: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """The advice would promise room that is made too late."""
    shared = {"grades": [{**SEARCHED, "method": {"name": "none"}}, {"layers": 5, "mask_ratio": 0.1}]}
    compared = {"compare": {"methods": [{"name": "pmd"}, {"name": "logits"}]}}
    text = told(campaign, caplog, 200e9, **shared, **compared)
    assert "try fewer trials, or a --run-dir on a larger disk" in text
    assert "keep_trials" not in text


def test_what_is_kept_counts_and_not_what_goes(campaign: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """The advice would be followed, and the same warning come again; or a second grade's trials be counted with those that have made room."""
    two = {"grades": [SEARCHED, {**SEARCHED, "layers": 5}]}
    assert "need about 610.9 GB" in told(campaign, caplog, 400e9, **two)
    assert "makes it about 26.3 GB" in told(campaign, caplog, 400e9, **two)
    assert "still" not in told(campaign, caplog, 400e9, **two)
    assert "makes it about 26.3 GB, still too much" in told(campaign, caplog, 26e9, **two)
    kept = {"storage": {"keep_trials": 2}}
    assert told(campaign, caplog, 27e9, **two, **kept) == ""
    assert "larger disk" in told(campaign, caplog, 1e9, **two, **kept)
    assert told(campaign, caplog, 27e9, **two, **kept, schedule={"name": "pipelined"}) != "", "both are under way"


def test_trials_at_once_are_there_at_once(campaign: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """Eight that train beside each other need eight times the room of one, and the advice would be too little."""
    one, eight = (
        told(campaign, caplog, 1e9, resources={"concurrent_trials": number})
        .partition("about ")[2]
        .partition("makes it about ")[2]
        for number in (1, 8)
    )
    # Seven more of two checkpoints each; and the third of eight that train takes the place of that of the one teacher.
    teacher = 12 * 2 * (31034 * 768 + 12 * 7_087_872)
    assert float(eight.split()[0]) - float(one.split()[0]) == pytest.approx(
        (7 * 2 * EACH + 8 * EACH - teacher) / 1e9, abs=0.2
    )


def test_nothing_is_said_where_nothing_is_known(campaign: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """A guess would frighten whoever has room."""
    assert told(campaign, caplog, 0, Ground("d", "e", 12)) == ""


def test_what_lies_there_already_is_not_counted_again(campaign: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """A run that goes on near its end would be told that the disk has no room for what is on it."""
    config = campaign(
        SEARCHED, search={"trials": 2}, teacher={"epochs": 1}, training={"epochs": 1, "keep_checkpoints": 1}
    )
    place = {"lineage": "main", "grade": 1, "number": 0, "time": 1.0}
    begun = {"kind": "trial_begun", **place, "identity": "i", "parameters": {}, "epochs": 1}
    failed = {"kind": "trial_failed", **place, "reason": "nan"}
    plans = grade_plans(config, BERT)
    with caplog.at_level(logging.WARNING, "raydistill.planning.disk"):
        for events in ([], [begun, failed]):
            tell_of_disk(config, plans, BERT, replay(events), 0)
        promoted = {**place, "identity": "i", "checkpoint": "c", "digest": "d", "epoch": 1, "metrics": {}}
        tell_of_disk(config, plans, BERT, replay([begun, failed, {"kind": "grade_promoted", **promoted}]), 0)
    assert [number for message in caplog.messages for number in "123" if f"up to {number} trials" in message] == [
        "3",
        "2",
        "1",
    ]


def test_lineages_of_one_seed_have_one_teacher(campaign: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """Four methods under one teacher would be warned of four teachers."""
    methods = [{"name": "pmd"}, {"name": "logits"}]
    text = told(campaign, caplog, 0, compare={"methods": methods, "seeds": [0, 1]})
    assert "up to 402 trials" in text
