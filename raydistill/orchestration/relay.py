"""Studies one after another as one search, so that Ray Tune keeps the process of a trial from one grade to the next."""

from __future__ import annotations

import threading
from typing import Any

from ray.tune.search import Searcher

from raydistill.orchestration.searcher import StudySearcher

STAY_SECONDS = 10.0
"""How long the process of a trial stays, and keeps its room, for a study that does not come, should nobody say that none will: to promote takes less where storage is near."""


class Relay(Searcher):
    """What Tune asks in its thread, and what it is given in others.

    Args:
        stay: seconds that it waits for the next study.
    """

    def __init__(self, stay: float = STAY_SECONDS) -> None:
        super().__init__()
        self._stay = stay
        self._turning = threading.Condition()
        self._search: StudySearcher | None = None
        self._over = False

    def give(self, search: StudySearcher) -> bool:
        """Have a study searched after the one before has been; False where it is too late, and the run of Tune ends."""
        with self._turning:
            if not self._over:
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
        """See `StudySearcher.suggest`. Blocks between two studies, when Tune has nothing to look after."""
        if self._search is not None:
            answer = self._search.suggest(trial_id)
            if answer != Searcher.FINISHED:
                return answer
        with self._turning:
            self._search = None
            self._turning.notify_all()
            following = self._wait_for_next()
        return following.suggest(trial_id) if following is not None else Searcher.FINISHED

    def _wait_for_next(self) -> StudySearcher | None:
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
