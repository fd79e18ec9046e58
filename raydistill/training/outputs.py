"""What the terms of one step may look at: both models' outputs for the clean and the corrupted view of one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from raydistill.data.batches import TripleBatch
from raydistill.data.texts import Texts
from raydistill.models.biencoder import Pooling, normalized, pool_packed
from raydistill.models.features import Needs, TowerOutput
from raydistill.objectives.weighted import Weighted
from raydistill.training.gather import Share


@dataclass(frozen=True)
class Side:
    """One tower's part of a view: this worker's texts and both models' outputs for them.

    Args:
        texts: this worker's share of the side's texts.
        masked: `(tokens,)` bool, True = masked; on the CPU, like the texts.
        learned: the student's outputs, with gradient, or None where no term asked.
        teacher: outputs without, or None where no term asked.
        share: how the side's texts are divided among workers.
    """

    texts: Texts
    masked: Tensor
    learned: TowerOutput | None
    teacher: TowerOutput | None
    share: Share

    @property
    def student(self) -> TowerOutput:
        """The student's outputs, where a term asked for them."""
        assert self.learned is not None, "a term looks at a student that it did not ask for"
        return self.learned


@dataclass(frozen=True)
class Encoded:
    """A view of the batch, encoded."""

    batch: TripleBatch
    queries: Side
    candidates: Side

    @property
    def query_vectors(self) -> Tensor:
        """Student vectors of the batch's queries, `(queries, hidden)`."""
        return self._student_vectors[0]

    @property
    def candidate_vectors(self) -> Tensor:
        """Student vectors of all candidate texts (columns first, then self-negatives), `(candidates, hidden)`."""
        return self._student_vectors[1]

    @cached_property
    def scores(self) -> Tensor:
        """Student cosines without margin, `(queries, columns)`."""
        return self.query_vectors @ self.candidate_vectors[: self.batch.num_columns].T

    @cached_property
    def teacher_scores(self) -> Tensor:
        """Teacher cosines, `(queries, columns)`, without gradient."""
        return self._scores(self.teacher_vectors)

    def scores_of_teacher(self, number: int) -> Tensor:
        """`teacher_scores`, of the teacher (0) or of one of those beside it (from 1); those of a structural model are no cosines."""
        return self.teacher_scores if number == 0 else self._scores(self.vectors_of_teacher(number))

    @cached_property
    def teacher_vectors(self) -> tuple[Tensor, Tensor]:
        """Teacher vectors of the batch's queries and of all candidate texts, without gradient."""
        return self.vectors_of_teacher(0)

    def vectors_of_teacher(self, number: int) -> tuple[Tensor, Tensor]:
        """`teacher_vectors`, of the teacher (0) or of one of those beside it (from 1)."""
        queries, candidates = self.queries.teacher, self.candidates.teacher
        assert queries is not None and candidates is not None
        pairs = zip((queries.vectors, *queries.others), (candidates.vectors, *candidates.others), strict=True)
        return self._of_all(*tuple(pairs)[number])

    def _scores(self, vectors: tuple[Tensor, Tensor]) -> Tensor:
        return vectors[0] @ vectors[1][: self.batch.num_columns].T

    def over_all(self, per_text: Callable[[Side], Weighted]) -> tuple[Weighted, Weighted]:
        """Values for the texts of this worker's sides to one per text of the batch: of its queries, and of its candidates."""
        local = [torch.stack(per_text(side), dim=1) for side in (self.queries, self.candidates)]
        # Rows of values with gradient, and weights without.
        queries, candidates = (Weighted(rows[:, 0], rows[:, 1].detach()) for rows in self._of_all(*local))
        return queries, candidates

    def mean_over_texts(self, per_text: Callable[[Side], Weighted]) -> Tensor:
        """The mean of `over_all` over each tower's texts, summed over both towers; a scalar."""
        queries, candidates = self.over_all(per_text)
        return queries.mean() + candidates.mean()

    def after(self, layers: Sequence[int], pooling: Pooling) -> tuple[Encoded, ...]:
        """What students see that share this one's first layers and end after each of `layers` (from 0; the states after them were captured).

        All workers' vectors come in one exchange, once for all terms.
        """
        key = tuple(layers), pooling
        if layers and key not in self._shallower:
            local = [_vectors_after(side, layers, pooling) for side in (self.queries, self.candidates)]
            of_layers = zip(*(rows.unbind(1) for rows in self._of_all(*local)), strict=True)
            self._shallower[key] = tuple(
                _Shallower(self.batch, self.queries, self.candidates, self, vectors) for vectors in of_layers
            )
        return self._shallower.get(key, ())

    @cached_property
    def _shallower(self) -> dict[tuple[tuple[int, ...], Pooling], tuple[Encoded, ...]]:
        return {}

    @cached_property
    def _student_vectors(self) -> tuple[Tensor, Tensor]:
        return self._of_all(self.queries.student.vectors, self.candidates.student.vectors)

    def _of_all(self, queries: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """All workers' rows."""
        return self.queries.share.collect_beside(self.candidates.share, queries, candidates)


@dataclass(frozen=True)
class _Shallower(Encoded):
    """A view as a student sees it that ends earlier; its teacher is that of the whole one."""

    whole: Encoded
    vectors: tuple[Tensor, Tensor]

    @cached_property
    def teacher_scores(self) -> Tensor:
        return self.whole.teacher_scores

    @cached_property
    def teacher_vectors(self) -> tuple[Tensor, Tensor]:
        return self.whole.teacher_vectors

    @cached_property
    def _student_vectors(self) -> tuple[Tensor, Tensor]:
        return self.vectors


@dataclass(frozen=True)
class Earlier:
    """Candidate vectors of earlier batches (pre-batch negatives), `(extra, hidden)`, without gradient."""

    vectors: Tensor


@dataclass(frozen=True)
class StepOutputs:
    """Everything a term may use. `corrupted` is `clean` itself where one view serves all terms; `epoch` counts from 0, and `step` over all epochs.

    Under `notes` a term leaves what it saw and does not train, scalars without gradient; their means are reported beside the losses.
    """

    clean: Encoded
    corrupted: Encoded
    inverse_temperature: Tensor
    teacher_inverse_temperature: float
    earlier: Earlier | None = None
    epoch: int = 0
    step: int = 0
    other_inverse_temperatures: tuple[float, ...] = ()
    notes: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What a view must capture of either model; None = that model is not run on this view."""

    student: Needs | None
    teacher: Needs | None

    def __or__(self, other: Wanted) -> Wanted:
        return Wanted(either(self.student, other.student), either(self.teacher, other.teacher))


def either(own: Needs | None, others: Needs | None) -> Needs | None:
    """What one of two asks for, together; None = neither asks."""
    if own is None or others is None:
        return own if others is None else others
    return own | others


def _vectors_after(side: Side, layers: Sequence[int], pooling: Pooling) -> Tensor:
    """Vectors of a side's texts from the states after inner layers, as a tower makes them of its last: `(texts, layers, hidden)`."""
    states = [side.student.states[layer].float() for layer in layers]
    # Of no text there is nothing to pool, and its part of the loss still needs a gradient.
    pooled = [pool_packed(one, side.texts, pooling) if len(side.texts) else one for one in states]
    return torch.stack([normalized(one) for one in pooled], dim=1)
