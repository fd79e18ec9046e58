"""Work that another run has done is taken from there, whole and verified, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fakes
import pytest

from raydistill.config.trial import TrialConfig
from raydistill.orchestration.ladder import Ladder
from raydistill.orchestration.library import Library
from raydistill.orchestration.rundir import write_config
from raydistill.planning.grades import grade_plans, lineages_of, trial_config
from raydistill.planning.rules import Rules

RULES = Rules("sequential", 0.0, False, 1, 2, epochs=(3, 3), sizes=(12, 6))
KEY = ("main", 0, 0)


def teacher() -> TrialConfig:
    config = fakes.campaign()
    ground = fakes.ground(config)
    return trial_config(config, lineages_of(config)[0], grade_plans(config, ground)[0], {}, ground, None)


def ladder(root: Path, **more: Any) -> Ladder:
    one = Ladder(root, RULES, **more)
    one.start("f", ["main"], ["0-teacher", "1-layers6"])
    return one


@pytest.fixture
def lender(tmp_path: Path) -> Path:
    """A run that has trained its teacher."""
    root, config = tmp_path / "lender", teacher()
    root.mkdir()
    write_config(root, fakes.campaign())
    one = ladder(root)
    assert one.begin(KEY, config.identity, {}) == "run"
    directory = root / "grades" / "0-teacher" / "trials" / config.identity
    directory.mkdir(parents=True)
    for report in fakes.run_trial(config, directory, fakes.Ranks()):
        one.report(KEY, report.epoch, report.metrics, report.checkpoint, report.digest, report.finished)
    return root


def test_finished_work_is_taken_over(lender: Path, tmp_path: Path) -> None:
    """The teacher of ten ladders would be trained ten times; or a borrowed one vanish with the run that trained it."""
    borrower = ladder(tmp_path / "borrower", library=Library(tmp_path / "borrower", fakes.verify))
    assert borrower.begin(KEY, teacher().identity, {}) == "reused"
    borrower.promote("main", 0)
    promotion = borrower.state.promotions["main", 0]
    original = Ladder(lender, RULES).record(KEY)
    assert promotion.digest == original.best_digest
    assert Path(promotion.checkpoint).is_relative_to(tmp_path / "borrower")
    assert fakes.verify(promotion.checkpoint) == promotion.digest
    assert borrower.record(KEY).notes == [f"taken from {lender}"]
    assert Ladder(tmp_path / "borrower", RULES).state == borrower.state
    assert borrower.begin(("main", 0, 1), "other work", {}) == "run"


def test_taking_that_was_cut_short_is_completed(lender: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two of its events, a taken trial would promote its last epoch instead of its best."""
    borrower = ladder(tmp_path / "borrower", library=Library(tmp_path / "borrower", fakes.verify))
    monkeypatch.setattr(borrower, "append", cut_short(borrower.append, 3))
    with pytest.raises(KeyboardInterrupt):
        borrower.begin(KEY, teacher().identity, {})
    assert Ladder(tmp_path / "borrower", RULES).record(KEY).status == "running"
    again = Ladder(tmp_path / "borrower", RULES, Library(tmp_path / "borrower", fakes.verify))
    original = Ladder(lender, RULES).record(KEY)
    assert again.record(KEY).status == "finished"
    assert [one["digest"] for one in again.record(KEY).reports] == [one["digest"] for one in original.reports]


def cut_short(append: Any, after: int) -> Any:
    """An `append` that dies after so many events."""
    left = [after]

    def one(event: dict[str, Any]) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        append(event)

    return one


@pytest.mark.parametrize("harm", ["damaged", "gone", "unreadable"])
def test_what_is_not_what_it_was_is_not_taken(lender: Path, tmp_path: Path, harm: str) -> None:
    """A damaged teacher would spread from run to run, or one broken run keep all the others from starting."""
    best = Path(str(Ladder(lender, RULES).record(KEY).best_checkpoint))
    if harm == "damaged":
        (best / "weights").write_bytes(b"x")
    elif harm == "gone":
        best.rename(tmp_path / "moved")
    else:
        (lender / "ledger" / "00000002.json").write_text("{}")
    borrower = ladder(tmp_path / "borrower", library=Library(tmp_path / "borrower", fakes.verify))
    assert borrower.begin(KEY, teacher().identity, {}) == "run"


def test_unfinished_work_is_not_taken(lender: Path, tmp_path: Path) -> None:
    """A trial that is still running, or was stopped early, is not the work that is asked for."""
    numbers = sorted((lender / "ledger").glob("*.json"))
    numbers[-1].unlink()
    borrower = ladder(tmp_path / "borrower", library=Library(tmp_path / "borrower", fakes.verify))
    assert borrower.begin(KEY, teacher().identity, {}) == "run"
