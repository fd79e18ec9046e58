"""Studies one after another as one search, so that Ray Tune keeps the process of a trial from one grade to the next."""

from __future__ import annotations

import threading
from typing import Any

from ray.tune.search import Searcher

from raydistill.orchestration.handovers import LINGER_SECONDS
from raydistill.orchestration.searcher import StudySearcher


class Relay(Searcher):
    """What Tune asks in its thread, and what it is given in others.

    Args:
        first: the search of the first study.
        stay: seconds that it waits for the next one, and the process of a trial keeps its room.
    """

    def __init__(self, first: StudySearcher, stay: float = LINGER_SECONDS) -> None:
        super().__init__()
        self._stay = stay
        self._turning = threading.Condition()
        self._search: StudySearcher | None = first
        self._over = False

    def give(self, search: StudySearcher) -> bool:
        """Have a study searched after the one before has been; False where it is too late, and the run of Tune ends."""
        with self._turning:
            if not self._over:
                search.inherits = True
                self._search = search
                self._turning.notify_all()
            return not self._over

    def wait(self) -> None:
        """Return when none of the study's trials is left, or the run of Tune has ended without them."""
        with self._turning:
            self._turning.wait_for(lambda: self._search is None or self._over)

    def let_go(self) -> None:
        """Let the run of Tune end, unless it has a study to search."""
        with self._turning:
            self._over = self._over or self._search is None
            self._turning.notify_all()

    def end(self) -> None:
        """Hear that the run of Tune has ended, whatever was left of it."""
        with self._turning:
            self._over = True
            self._turning.notify_all()

    def suggest(self, trial_id: str) -> Any:
        """See `StudySearcher.suggest`. Blocks between two studies, when no trial of Tune's is at work."""
        search = self._search
        while search is not None:
            answer = search.suggest(trial_id)
            if answer != Searcher.FINISHED:
                return answer
            search = self._after(search)
        return Searcher.FINISHED

    def _after(self, ended: StudySearcher) -> StudySearcher | None:
        """The search that follows one, as soon as it is there; None = none does."""
        with self._turning:
            if self._search is ended:
                self._search = None
                self._turning.notify_all()
            self._turning.wait_for(lambda: self._search is not None or self._over, self._stay)
            self._over = self._over or self._search is None
            return self._search

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """See `StudySearcher.on_trial_complete`."""
        if self._search is not None:
            self._search.on_trial_complete(trial_id, result, error)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes itself down before it begins, and is never read again."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger knows."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the ledger knows."""
