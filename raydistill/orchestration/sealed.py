"""What reaches an actor as it was sent, and becomes what it is when it is asked for.

Ray unpickles an actor's arguments before its constructor runs, and an error then is its end for good. A bucket's file system asks for the bucket's region when it is
made (pyarrow), so a network that fails for a moment, while an actor is started again, would do that.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from ray import cloudpickle

from raydistill.orchestration.patience import explained

T = TypeVar("T")


class Sealed(Generic[T]):
    """Something on its way.

    Args:
        content: what can be pickled.
    """

    def __init__(self, content: T) -> None:
        self._bytes: bytes = cloudpickle.dumps(content)  # type: ignore[no-untyped-call]

    def open(self) -> T:
        """The content, made anew each time.

        Raises:
            StorageError: the file system in it cannot be reached.
        """
        with explained("the run cannot be reached"):
            content: T = cloudpickle.loads(self._bytes)
            return content
