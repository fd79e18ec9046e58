"""What the threads of an actor share, behind one lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Shared(threading.Condition):
    """A lock for what several threads look at (`with shared:`) and change (`with shared.change():`), and where they wait for each other's changes.

    Whoever holds it may take it again, if it is made of an RLock. Several made of the same one are one lock with several kinds of news.
    """

    @contextmanager
    def change(self) -> Iterator[None]:
        """Hold the lock; whoever waits looks again afterwards, at whatever was changed before an error, too."""
        with self:
            try:
                yield
            finally:
                self.notify_all()

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds, looking only when something was changed; False = it does not after so many seconds."""
        with self:
            return self.wait_for(condition, seconds)
