"""Searches beside each other, and what they leave."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import pytest
from ray import tune
from ray.tune.experiment import Experiment

from raydistill.errors import TrialError
from raydistill.orchestration import studies
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.searcher import DIED, Allowance, StudySearcher
from raydistill.orchestration.studies import StudyRunner
from raydistill.orchestration.trials import InlineTrial
from raydistill.orchestration.tuning import named_apart, run_tune
from raydistill.planning.records import TrialRecord


def test_studies_do_not_share_a_name() -> None:
    """Tune keeps what trials run under its name for the whole cluster: one study would train the trials of another."""
    first, second = (named_apart(tune.with_resources(InlineTrial, {"CPU": 1})) for _ in range(2))
    assert Experiment.get_trainable_name(first) != Experiment.get_trainable_name(second)


def test_studies_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune keeps the files of a search on this machine below the second it began in and its name: of two that begin together one would read the other's."""
    names: list[str] = []

    class FakeTuner:
        def __init__(self, trainable: Any, *, tune_config: Any, run_config: Any) -> None:
            names.append(run_config.name)

        def fit(self) -> None: ...

    monkeypatch.setattr(tune, "Tuner", FakeTuner)
    monkeypatch.setattr(tune, "with_parameters", lambda trainable, **parameters: trainable)
    study = SimpleNamespace(config=fakes.campaign(), cpus=1.0, store=RunStore.at(tmp_path))
    for _ in range(2):
        run_tune(None, study, None, None, None)  # type: ignore[arg-type]
    assert len(set(names)) == 2


class _Answers:
    """A coordinator that answers one question."""

    def __init__(self, records: list[TrialRecord]) -> None:
        self.records = records
        self.study = self

    def remote(self, *place: Any) -> list[TrialRecord]:
        return self.records


class _Study:
    place = ("main", 0)
    root = Path()
    concurrency = 2


class _NothingLeft:
    def __init__(self, study: Any, coordinator: Any) -> None: ...

    def next(self) -> None: ...


def test_nothing_is_promoted_while_a_trial_stands_where_it_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that Tune ended early would promote the best of what it happened to have, and lose the rest without a word."""
    done = TrialRecord("a" * 16, "main", 0, 0, {}, status="finished", epochs=1)
    left = TrialRecord("b" * 16, "main", 0, 1, {}, status="running", epochs=1)
    monkeypatch.setattr(studies, "Proposer", _NothingLeft)
    monkeypatch.setattr(studies, "ask", lambda answer: answer)
    with pytest.raises(TrialError, match=f"1 of its trials had not: {'b' * 16}"):
        StudyRunner()._run(_Study(), _Answers([done, left]), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("early", [True, False])
def test_room_that_comes_while_a_study_begins_is_not_lost(early: bool) -> None:
    """The driver books new places as taken once; a process that only then begins would use the old number for the whole grade."""
    runner, study = StudyRunner(), _Study()
    if early:
        runner.allow(study.place, 3)
    runner._turn_to(study)  # type: ignore[arg-type]
    if not early:
        runner.allow(study.place, 3)
    runner.allow(("main", 1), 5)
    assert runner.allowance.trials == 3


class _Coordinator:
    """Answers what a searcher asks of a trial whose process died."""

    def __init__(self, leaving: int) -> None:
        self.leaving, self.failed, self.running = leaving, list[str](), True
        self.left = self.goes_on = self.fail = self

    def remote(self, key: tuple[str, int, int], reason: str = "") -> bool:
        if reason:
            self.failed.append(reason)
            return True
        told, self.leaving = self.leaving > 0, self.leaving - 1
        return told


class _Again:
    """A proposer with one trial, which is handed out again whenever it is taken up."""

    def __init__(self, coordinator: Any, max_failures: int) -> None:
        self.coordinator, self.study, self.waiting = coordinator, self, list[int]()
        self.config = self.resources = self
        self.max_failures = max_failures

    def key(self, number: int) -> tuple[str, int, int]:
        return ("main", 1, number)

    def take_up(self, number: int) -> None:
        self.waiting.append(number)

    def next(self) -> int | None:
        return self.waiting.pop() if self.waiting else None


@pytest.mark.parametrize(("leaving", "max_failures", "lives"), [(0, 0, 1), (0, 2, 3), (4, 0, 5), (3, 1, 5)])
def test_only_processes_that_die_by_themselves_count(
    monkeypatch: pytest.MonkeyPatch, leaving: int, max_failures: int, lives: int
) -> None:
    """A trial on machines that are wanted back would be given up though it saved each time; or one that dies for ever never would."""
    coordinator = _Coordinator(leaving)
    coordinator.goes_on = _Yes()
    monkeypatch.setattr("raydistill.orchestration.searcher.ask", lambda answer: answer)
    searcher = StudySearcher(_Again(coordinator, max_failures), 0, Allowance(1))  # type: ignore[arg-type]
    begun = 0
    while (answer := searcher.suggest(f"{begun}")) not in ("FINISHED", None):
        assert answer == {"number": 0}
        searcher.on_trial_complete(f"{begun}", error=True)
        begun += 1
    assert begun == lives
    assert coordinator.failed == [DIED]


class _Yes:
    def remote(self, key: Any) -> bool:
        return True


@pytest.mark.parametrize("worked", [True, False])
def test_process_that_died_before_it_was_given_a_trial_is_no_death_of_that(
    monkeypatch: pytest.MonkeyPatch, worked: bool
) -> None:
    """Between two grades nobody looks at the process that stays: the first trial below would have failed before it began."""
    coordinator = _Coordinator(0)
    coordinator.goes_on = _Yes()
    monkeypatch.setattr("raydistill.orchestration.searcher.ask", lambda answer: answer)
    searcher = StudySearcher(_Again(coordinator, 0), 0, Allowance(1))  # type: ignore[arg-type]
    searcher.inherits = True
    assert searcher.suggest("a") == {"number": 0}
    if worked:
        searcher.is_seen(0)
    searcher.on_trial_complete("a", error=True)
    assert coordinator.failed == ([DIED] if worked else [])
    if not worked:
        assert searcher.suggest("b") == {"number": 0}
        searcher.on_trial_complete("b", error=True)
        assert coordinator.failed == [DIED], "the one that was started for it has no excuse"


def test_search_is_not_over_while_a_trial_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune asks no more once it was told that the search is over, and the last trial would never run again after its process died."""
    coordinator = _Coordinator(0)
    coordinator.goes_on = _Yes()
    monkeypatch.setattr("raydistill.orchestration.searcher.ask", lambda answer: answer)
    searcher = StudySearcher(_Again(coordinator, 1), 0, Allowance(2))  # type: ignore[arg-type]
    assert searcher.suggest("a") == {"number": 0}
    assert searcher.suggest("b") is None
    searcher.on_trial_complete("a", error=True)
    assert searcher.suggest("b") == {"number": 0}
    searcher.on_trial_complete("b")
    assert searcher.suggest("c") == "FINISHED"
