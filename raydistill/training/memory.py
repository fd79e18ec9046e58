"""What does not fit into memory: how it is told from other failures, and how the same work is done again with less."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Literal, TypeVar

import torch

from raydistill.errors import OutOfMemoryError
from raydistill.models.biencoder import BiEncoder
from raydistill.teachers.views import TeacherSource
from raydistill.training.gather import OtherWorkerError, World

logger = logging.getLogger(__name__)
GradientCache = Literal["auto", "always", "never"]
Found = TypeVar("Found")
_PHRASES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
)
"""What PyTorch says in a plain RuntimeError: its CPU allocator (two systems), asynchronous CUDA errors, cuBLAS, which cannot begin on a GPU that is full."""


class MemoryPlan:
    """How much is held in memory at once; less after everything that did not fit. Equal on all workers, which deal out micro-batches by it.

    Args:
        student: encodes `tokens_per_micro_batch` at a time.
        world: the workers; they do something again together, or not at all.
        gradient_cache: `always` = every step is a cached one; `auto` = from the first one on that did not fit; `never` = what does not fit ends the trial.
    """

    def __init__(self, student: BiEncoder, world: World, gradient_cache: GradientCache) -> None:
        self.student, self.world = student, world
        self.cached, self.adapts = gradient_cache == "always", gradient_cache != "never"

    def fit(self, take: Callable[[], Found], forget: Callable[[], None], longest: int, teacher: TeacherSource) -> Found:
        """Take a step, with smaller and smaller micro-batches until it fits.

        Args:
            take: takes the step up to, and without, the change of weights; equal calls give equal results.
            forget: removes what an attempt left.
            longest: tokens of the longest text of all workers, which no micro-batch can be smaller than.
            teacher: encodes in micro-batches of the same size.

        Raises:
            OutOfMemoryError: it does not fit one text at a time, or may not be taken again.
        """
        return self._until_it_fits(take, forget, "a step", longest, teacher, graphs=True)

    def encode(self, take: Callable[[], Found], what: str, longest: int, teacher: TeacherSource) -> Found:
        """Do what encodes without gradient, with smaller and smaller micro-batches until it fits; from its beginning each time.

        Args:
            take: does it; all workers call, and equal calls give equal results.
            what: what it is called in errors.
            longest: tokens of the longest text there may be.
            teacher: encodes in micro-batches of the same size.

        Raises:
            OutOfMemoryError: it does not fit one text at a time, or may not be done again.
        """
        return self._until_it_fits(take, lambda: None, what, longest, teacher, graphs=False)

    def _until_it_fits(
        self,
        take: Callable[[], Found],
        forget: Callable[[], None],
        what: str,
        longest: int,
        teacher: TeacherSource,
        *,
        graphs: bool,
    ) -> Found:
        while True:
            teacher.encode_at_most(self.student.tokens_per_micro_batch)
            try:
                found = take()
                # Whoever goes on from here cannot go back: no worker does before all have arrived here.
                self.world.agree_to_go_on()
                return found
            except OtherWorkerError:
                said, alone = "another worker has no memory left", False
            except (RuntimeError, MemoryError) as problem:
                if not is_out_of_memory(problem):
                    raise
                said, alone = str(problem).partition("\n")[0] or type(problem).__name__, True
            # Outside of the handler, because until here the problem's traceback held on to the tensors of the failed attempt.
            forget()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if alone:
                # The others do not know yet; and even the word to them takes a little memory.
                self.world.agree_to_go_on(well=False)
            self._shrink(what, longest, said, graphs=graphs)

    def _shrink(self, what: str, longest: int, said: str, *, graphs: bool) -> None:
        """Halve the micro-batches. Where all their graphs are held together that alone saves nothing, and the gradient cache is needed too."""
        tokens = self.student.tokens_per_micro_batch
        part, setting = ("batch", "batch_size") if graphs else ("micro-batch", "tokens_per_micro_batch")
        if not self.adapts:
            raise OutOfMemoryError(
                f"{what} did not fit into memory: {said}",
                expected=f"room for the outputs of all layers for all texts of a {part}",
                consequence=f"{what} was given up; checkpoints written before it are sound",
                remedy="set training.gradient_cache to auto, which does it again in smaller parts, and go on with --resume; "
                f"or lower training.{setting} in a new run",
            )
        if tokens <= longest and (self.cached or not graphs):
            raise OutOfMemoryError(
                f"{what} did not fit into memory in micro-batches of one text of {longest} tokens: {said}",
                expected="room for one text, and for the vectors and scores of all",
                consequence=f"{what} was given up; checkpoints written before it are sound",
                remedy="lower training.remember_states, data.max_tokens, training.batch_size or the grade's layers, or free memory",
            )
        self.cached = self.cached or graphs
        self.student.tokens_per_micro_batch = max(1, tokens // 2)
        logger.warning(
            "out of memory (%s); %s is done again with %s%d instead of %d tokens at a time, and so is what comes later",
            said,
            what,
            "the gradient cache and " if graphs else "",
            self.student.tokens_per_micro_batch,
            tokens,
        )


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether less memory would have helped."""
    if isinstance(problem, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(problem, RuntimeError) and any(phrase in str(problem) for phrase in _PHRASES)
