from __future__ import annotations

import random

import pytest

from raydistill.planning.state import CampaignState, replay
from raydistill.planning.stopping import Halving, rebuilt


@pytest.mark.needs_ray
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("grace", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_decides_as_ray_tune_does(factor: int, grace: int, seed: int) -> None:
    """Our halving would not be the published one. Twin: Ray Tune's own scheduler, fed the same reports."""
    from ray.tune import schedulers

    epochs = 20
    ray = schedulers.ASHAScheduler(
        time_attr="epoch", metric="mrr", mode="max", max_t=epochs, grace_period=grace, reduction_factor=factor
    )
    halving = Halving(grace, factor, epochs)
    draw = random.Random(seed)
    trials = [type("Trial", (), {"trial_id": str(number)})() for number in range(12)]
    for trial in trials:
        ray.on_trial_add(None, trial)
    progress = dict.fromkeys(range(12), 0)
    stopped = 0
    while progress:
        number = draw.choice(list(progress))
        progress[number] += 1
        value = draw.random()
        theirs = ray.on_trial_result(None, trials[number], {"epoch": progress[number], "mrr": value})
        ours = halving.observe(number, progress[number], value)
        if progress[number] < epochs:
            assert ours == (theirs == "STOP")
        stopped += ours
        if ours or progress[number] == epochs:
            del progress[number]
    assert 3 <= stopped <= 11


def test_last_epoch_and_grace_stop_nobody() -> None:
    """A trial would be stopped before its grace is over, or at its very end, when nothing is left to save."""
    halving = Halving(2, 2, 4)
    assert not halving.observe(0, 2, 0.9)
    assert not halving.observe(1, 1, 0.1)
    assert halving.observe(1, 2, 0.1)
    assert not halving.observe(0, 4, 0.9)
    assert not halving.observe(2, 4, 0.95)


@pytest.mark.parametrize("value", [None, float("nan")])
def test_epoch_without_a_number_decides_nothing(value: float | None) -> None:
    """An epoch that was not validated would stop its trial, or poison the quantile of all others."""
    halving = Halving(1, 2, 4)
    assert not halving.observe(0, 1, 0.5)
    assert not halving.observe(1, 1, value)
    assert halving.rungs[-1][1] == {0: 0.5}


def test_rungs_are_rebuilt_from_the_state() -> None:
    """After a restart early stopping would begin with empty rungs and let poor trials go on."""
    events = [{"kind": "campaign_started", "config_fingerprint": "f", "lineages": ["main"], "grades": ["0"]}]
    for number in range(3):
        place = {"lineage": "main", "grade": 0, "number": number}
        events.append(
            {"kind": "trial_begun", **place, "identity": f"{number}", "parameters": {}, "epochs": 8, "time": 0.0}
        )
    fresh = Halving(1, 2, 8)
    for epoch, number, value in [(1, 0, 0.5), (1, 2, 0.6), (2, 0, 0.7), (1, 1, 0.52), (2, 2, 0.1)]:
        stop = fresh.observe(number, epoch, value)
        report = {"epoch": epoch, "metrics": {"valid/both/mrr": value}, "checkpoint": "c", "digest": f"{epoch}"}
        place = {"lineage": "main", "grade": 0, "number": number}
        outcome = "stopped" if stop else "running"
        events.append({"kind": "trial_reported", **place, **report, "outcome": outcome, "time": 0.0})
    state: CampaignState = replay(events)
    assert rebuilt(Halving(1, 2, 8), state, "main", 0).rungs == fresh.rungs
    assert [one.status for one in state.of("main", 0)] == ["running", "stopped", "stopped"]
