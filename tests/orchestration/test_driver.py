"""When a campaign in which something failed is over: of a driver whose cluster, coordinator and studies are made up."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from raydistill.errors import (
    ClusterError,
    DataError,
    LedgerError,
    PromotionError,
    RayDistillError,
    RunDirectoryError,
    StorageError,
)
from raydistill.orchestration import driver as driving
from raydistill.orchestration.driver import Driver

FAILURE = PromotionError("no trial is left")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """One whose first lineage has failed, and which starts nothing by itself."""
    made: Any = Driver.__new__(Driver)
    made.failures, made.jobs, made.unplaced = {("first", 1): FAILURE}, {}, 0
    made.state = SimpleNamespace(complete=False)
    made.config = SimpleNamespace(search=SimpleNamespace(algorithm="random"))
    made.lineages = made.plans = ()
    made.machines = SimpleNamespace(look=lambda: None)
    made.runners = SimpleNamespace(waiting=SimpleNamespace(look=lambda jobs, machines, beside: None))
    made.scorings = SimpleNamespace(
        failures={}, running={}, beside=[], left=lambda state: False, start=lambda *a, **b: None
    )
    for name in ("free_orphaned_room", "resting", "grow"):
        monkeypatch.setattr(driving, name, lambda *given: 0)
    monkeypatch.setattr(made, "_listen", lambda: None)
    monkeypatch.setattr(made, "_start_studies", lambda: (0, True))
    monkeypatch.setattr(made, "_wait", lambda: pytest.fail("it waits for nothing"))
    return made  # type: ignore[no-any-return]


def loop(driver: Driver) -> None:
    driver._loop(SimpleNamespace(check=lambda: True))  # type: ignore[arg-type]


def test_failure_ends_a_campaign_in_which_nothing_is_left(driver: Driver) -> None:
    with pytest.raises(PromotionError, match="no trial is left"):
        loop(driver)


@pytest.mark.parametrize("left", ["study", "score"])
def test_failure_ends_nothing_that_waits_for_a_machine(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """A machine is lost between two grades: the ladder below is not trained, because another one failed an hour ago."""
    waits: list[int] = []

    def wait() -> list[Any]:
        waits.append(driver.unplaced)
        if len(waits) == 3:
            # A machine has come, and what waited was done.
            driver.unplaced = 0
            driver.scorings.left = lambda state: False  # type: ignore[method-assign]
        return []

    monkeypatch.setattr(driver, "_wait", wait)
    if left == "study":
        driver.unplaced = 1
    else:
        driver.scorings.left = lambda state: True  # type: ignore[method-assign]
    with pytest.raises(PromotionError):
        loop(driver)
    assert len(waits) == 3


WORDS = {"expected": "e", "remedy": "r"}


@pytest.mark.parametrize(
    ("problem", "ours", "halted"),
    [
        (StorageError("the disk is full"), True, True),
        (DataError("no dataset", **WORDS), True, True),
        (SystemExit(143), True, True),
        # Whoever has taken the run trains in its folders by now.
        (RunDirectoryError("another driver has the run"), False, False),
        (LedgerError("another driver's event", **WORDS), False, False),
        # Nobody could be told.
        (ClusterError("the head is lost"), True, False),
    ],
    ids=lambda one: type(one).__name__,
)
def test_trials_save_before_the_campaign_ends(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, problem: BaseException, ours: bool, halted: bool
) -> None:
    """One machine cannot write, and all other trials lose what they learnt since their last epoch."""
    happened: list[str] = []
    head = SimpleNamespace(lost=problem if isinstance(problem, ClusterError) else None)

    def fails(head: Any) -> None:
        raise problem

    made: Any = driver
    made.coordinator = made.store = None

    def check() -> None:
        if not ours:
            raise RunDirectoryError("another driver has the run")

    made.check = check
    monkeypatch.setattr(driving, "head_watched", lambda: contextlib.nullcontext(head))
    monkeypatch.setattr(driving, "write_table", lambda *given: None)
    monkeypatch.setattr(driving, "halt_all", lambda coordinator: happened.append("halted"))
    monkeypatch.setattr(driver, "_loop", fails)
    monkeypatch.setattr(driver, "_stop", lambda **how: happened.append("stopped"))
    with pytest.raises((RayDistillError, SystemExit)) as caught:
        driver.run()
    assert caught.value is problem
    assert ("halted" in happened) is halted
    assert "stopped" not in happened[: happened.index("halted")] if halted else True
    assert ("stopped" in happened) is (head.lost is None)
