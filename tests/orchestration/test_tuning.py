"""Studies one after another in one run of Ray Tune, which is played by a loop that asks as Tune does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from raydistill.errors import TrialError
from raydistill.orchestration import tuning
from raydistill.orchestration.relay import Relay
from raydistill.orchestration.searcher import FINISHED
from raydistill.orchestration.tuning import Tuning


class Search:
    """A study's search of some trials, one at a time."""

    def __init__(self, name: str, trials: int) -> None:
        self.name, self.left, self.done = name, trials, list[str]()
        self.inherits = False

    def suggest(self, trial_id: str) -> Any:
        if not self.left:
            return "FINISHED"
        self.left -= 1
        return {"number": self.left}

    def on_trial_complete(self, trial_id: str, result: Any, error: bool) -> None:
        self.done.append(trial_id)


def play(relay: Any, *_: Any) -> None:
    """What Tune does with a searcher until that has finished."""
    number = 0
    while (point := relay.suggest(f"{number}")) != "FINISHED":
        if point is not None:
            relay.on_trial_complete(f"{number}", None, False)
            number += 1


def test_the_word_for_the_end_of_a_study_is_that_of_tune():
    assert Searcher.FINISHED == FINISHED


def study(cpus: float = 1.0, workers: int = 1) -> Any:
    return SimpleNamespace(cpus=cpus, workers=workers)


@pytest.fixture(name="begun")
def _begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for every run of Tune that was begun, and one for every end."""
    lines = list[str]()

    def run(*given: Any) -> None:
        lines.append("begun")
        play(*given)
        lines.append("ended")

    monkeypatch.setattr(tuning, "run_tune", run)
    return lines


def within(seconds: float, act: Callable[[], Any]) -> Any:
    """What a call gives, which would otherwise never end."""
    answers = list[Any]()
    thread = threading.Thread(target=lambda: answers.append(act()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert answers, "it waits for ever"
    return answers[0]


def tuned(first: Search) -> Tuning:
    """A run of Tune whose first study is over."""
    run = Tuning(study(), first, None, None, None)  # type: ignore[arg-type]
    assert within(5, lambda: run.wait() or True)
    return run


def test_next_study_has_the_processes_of_the_last(begun: list[str]) -> None:
    """Every grade would start its own; or one study's trial would be counted as another's."""
    first, second = Search("first", 2), Search("second", 3)
    run = tuned(first)
    assert first.done == ["0", "1"]
    assert run.take(study(), second)  # type: ignore[arg-type]
    assert within(5, lambda: run.wait() or True)
    assert (first.done, second.done) == (["0", "1"], ["2", "3", "4"])
    assert (first.inherits, second.inherits) == (False, True)
    assert begun == ["begun"]
    within(5, lambda: run.end() or True)
    assert begun == ["begun", "ended"]


def test_study_that_finds_nothing_to_do_ends_no_run(begun: list[str]) -> None:
    """Trials that were all done by another study meanwhile: the grade below would start its own process."""
    run = tuned(Search("first", 0))
    assert run.take(study(), Search("second", 0))  # type: ignore[arg-type]
    assert within(5, lambda: run.wait() or True)
    third = Search("third", 1)
    assert run.take(study(), third)  # type: ignore[arg-type]
    assert within(5, lambda: run.wait() or True)
    assert third.done == ["0"]
    within(5, lambda: run.end() or True)


@pytest.mark.parametrize("other", [study(cpus=2.0), study(workers=2)])
def test_study_of_another_share_is_left_to_other_processes(begun: list[str], other: Any) -> None:
    """It would be trained with the CPUs, or the workers, of the grade above."""
    run, search = tuned(Search("first", 1)), Search("second", 1)
    assert not run.take(other, search)  # type: ignore[arg-type]
    within(5, lambda: run.end() or True)
    assert search.left == 1


def test_processes_that_were_let_go_are_given_nothing(begun: list[str]) -> None:
    """A study handed to a run of Tune that ends would never be searched."""
    run = tuned(Search("first", 1))
    run.let_go()
    assert not run.take(study(), Search("second", 1))  # type: ignore[arg-type]
    within(5, lambda: run.end() or True)


def test_word_that_comes_late_ends_no_study_under_way() -> None:
    """The driver lets a process go in the moment in which it gives it a study: its trials would be left where they stand."""
    search = Search("first", 1)
    relay = Relay(search)  # type: ignore[arg-type]
    relay.let_go()
    assert relay.suggest("0") == {"number": 0}
    assert relay.give(search)  # type: ignore[arg-type]


def test_room_is_not_kept_for_a_study_that_does_not_come() -> None:
    """A promotion that takes minutes would keep it from everybody else's trials."""
    relay = Relay(Search("first", 0), stay=0.05)  # type: ignore[arg-type]
    assert within(5, lambda: relay.suggest("0")) == "FINISHED"
    assert not relay.give(Search("second", 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", [True, False])
def test_error_that_ends_the_run_of_tune_is_raised_where_the_study_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """A thread that dies by itself would leave the grade waiting, or looking as if it had no trials."""

    def fail(*given: Any) -> None:
        if asked:
            given[0].suggest("0")
        raise TrialError("no")

    monkeypatch.setattr(tuning, "run_tune", fail)
    run = Tuning(study(), Search("first", 1), None, None, None)  # type: ignore[arg-type]
    with pytest.raises(TrialError, match="no"):
        run.wait()
    assert not run.take(study(), Search("second", 1))  # type: ignore[arg-type]


def test_error_that_nobody_waits_for_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong while Tune tears down would be seen by nobody."""

    def fail(*given: Any) -> None:
        play(*given)
        raise TrialError("no")

    monkeypatch.setattr(tuning, "run_tune", fail)
    run = tuned(Search("first", 1))
    within(5, lambda: run.end() or True)
    assert "did not end well" in caplog.text
