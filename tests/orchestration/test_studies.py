"""Searches beside each other, and what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.tune.experiment import Experiment

from raydistill.errors import TrialError
from raydistill.orchestration import studies
from raydistill.orchestration.studies import StudyRunner, named_apart
from raydistill.orchestration.trials import InlineTrial
from raydistill.planning.records import TrialRecord


def test_studies_do_not_share_a_name() -> None:
    """Tune keeps what trials run under its name for the whole cluster: one study would train the trials of another."""
    first, second = (named_apart(tune.with_resources(InlineTrial, {"CPU": 1})) for _ in range(2))
    assert Experiment.get_trainable_name(first) != Experiment.get_trainable_name(second)


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
