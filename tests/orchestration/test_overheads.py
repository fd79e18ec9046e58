"""What orchestration costs: campaigns of which it cannot be said."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import fakes
import pytest

from raydistill.benchmarks.tables import measured as rows_of
from raydistill.config.schema import CampaignConfig
from raydistill.errors import CapabilityError, ConfigError, RoomError, TrialError
from raydistill.orchestration import joining, machines, overheads
from raydistill.orchestration.overheads import measured
from raydistill.orchestration.speeds import replay_seconds


@pytest.mark.parametrize("part", ["inline", "train", "workers"])
@pytest.mark.parametrize(("epochs", "every"), [(1, 1), (2, 2), (3, 5)])
def test_single_report_is_refused_before_anything_runs(tmp_path: Path, part: str, epochs: int, every: int) -> None:
    """A benchmark that trains for minutes, and then has no two reports to take the time between."""
    config = fakes.campaign(grades=[{"layers": 3, "epochs": epochs}], training={"evaluate_every": every})
    with pytest.raises(ConfigError, match=f"the last grade has {epochs} epoch"):
        measured(part, config, tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Have a cluster of so many CPUs, none of which is used."""

    def of(cpus: float) -> None:
        monkeypatch.setattr(overheads, "connected", nullcontext)
        monkeypatch.setattr(machines, "all_machines", lambda: [{"CPU": cpus}])
        monkeypatch.setattr(joining, "may_grow", lambda: False)

    return of


@pytest.mark.parametrize(("cpus", "counts"), [(1, [1]), (3, [1, 2]), (100, [1, 2, 4, 8])])
def test_workers_double_as_far_as_there_are_cpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: Callable[[float], None],
    cpus: float,
    counts: list[int],
) -> None:
    """A trial of more workers than a cluster has room for, which waits for machines for ever."""

    def rate(config: CampaignConfig, workers: int, out: Path) -> float:
        return 10.0 * workers - workers**2

    machine(cpus)
    monkeypatch.setattr(overheads, "examples_per_second", rate)
    found = measured("workers", fakes.campaign(training={"epochs": 3}), tmp_path)
    assert [found.pop(f"{workers} workers, examples/s") for workers in counts] == [10 * n - n**2 for n in counts]
    assert found == {f"{n} times one": pytest.approx((10 * n - n**2) / 9) for n in counts[1:]}


def test_workers_that_fail_take_no_figures_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Callable[[float], None]
) -> None:
    """An hour of measurements lost because the largest trial does not fit into memory."""

    def rate(config: CampaignConfig, workers: int, out: Path) -> float:
        if workers > 2:
            raise TrialError("no memory")
        return float(workers)

    machine(8.0)
    monkeypatch.setattr(overheads, "examples_per_second", rate)
    assert measured("workers", fakes.campaign(), tmp_path) == {
        "1 workers, examples/s": 1.0,
        "2 workers, examples/s": 2.0,
        "2 times one": 2.0,
        "4 workers": "no memory",
    }


@pytest.mark.parametrize("part", ["inline", "train"])
def test_trials_on_another_device_than_the_twin_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """What Ray costs, as the difference between a processor and a GPU."""
    monkeypatch.setattr(overheads, "best_device", lambda: SimpleNamespace(type="cuda"))
    config = fakes.campaign(training={"epochs": 3}, resources={"gpus_per_worker": 0})
    with pytest.raises(CapabilityError, match="trials train on CPUs"):
        measured(part, config, tmp_path)  # type: ignore[arg-type]


def test_machine_without_room_for_one_worker_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Callable[[float], None]
) -> None:
    """An empty row."""
    machine(1.0)

    def rate(config: CampaignConfig, workers: int, out: Path) -> float:
        raise RoomError("no room")

    monkeypatch.setattr(overheads, "examples_per_second", rate)
    with pytest.raises(RoomError):
        measured("workers", fakes.campaign(), tmp_path)


def test_part_that_a_configuration_cannot_show_is_left_out_with_a_word(
    tiny_campaign: Callable[..., str], tmp_path: Path
) -> None:
    """The one command ends with an error before its last parts, hours after it began."""
    [row] = rows_of("inline", tiny_campaign(), [], tmp_path / "out", 1, None)
    assert "has 1 epoch" in row["inline"]
    assert "set training.epochs" in row["remedy"]


@pytest.mark.parametrize("gpus", ["auto", 1])
def test_workers_are_no_more_than_gpus_have_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: float | str
) -> None:
    """A second worker that waits for a GPU which no machine has."""
    monkeypatch.setattr(overheads, "connected", nullcontext)
    monkeypatch.setattr(machines, "all_machines", lambda: [{"CPU": 8.0, "GPU": 1.0}])
    monkeypatch.setattr(joining, "may_grow", lambda: False)
    monkeypatch.setattr(joining, "torch_sees_gpus", lambda: True)
    monkeypatch.setattr(overheads, "examples_per_second", lambda config, workers, out: float(workers))
    config = fakes.campaign(training={"epochs": 3}, resources={"gpus_per_worker": gpus})
    assert measured("workers", config, tmp_path) == {"1 workers, examples/s": 1.0}


@pytest.mark.parametrize("part", ["replay", "workers"])
def test_part_is_measured_again_where_it_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Callable[[float], None], part: str
) -> None:
    """Twice as many events as should be replayed; or trials that were finished, and take no time."""
    machine(1.0)
    (tmp_path / "workers1" / "ledger").mkdir(parents=True)
    (tmp_path / "inline" / "trials").mkdir(parents=True)
    monkeypatch.setattr(overheads, "replay_seconds", lambda out: replay_seconds(out, events=300))
    monkeypatch.setattr(overheads, "examples_per_second", lambda config, workers, out: 1.0 + out.exists())
    config = fakes.campaign(training={"epochs": 3})
    for _ in range(2):
        found = measured(part, config, tmp_path)  # type: ignore[arg-type]
        assert found.get("1 workers, examples/s", 1.0) == 1.0
    assert (tmp_path / "inline" / "trials").exists(), "another part's"
