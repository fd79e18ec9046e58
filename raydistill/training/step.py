"""What a step of the loop begins with, and what is left of it once its gradients are ready."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from raydistill.data.batches import TripleBatch
from raydistill.data.masking import View

LOSS, NORM = "loss", "gradient norm"


@dataclass(frozen=True)
class Prepared:
    """A batch, and its queries and candidates as terms on the corrupted view see them; None where there are none."""

    batch: TripleBatch
    corrupted: tuple[View, View] | None


@dataclass(frozen=True)
class Taken:
    """Everything of a step but the change of weights; nothing here holds a graph.

    Args:
        values: of each term, unweighted, of the loss, and the norm of the gradient; scalars.
        gradient_norms: of each term, where they were measured.
        column_vectors: `(columns, hidden)`, where they serve later steps.
        notes: what terms saw besides.
    """

    values: dict[str, Tensor]
    gradient_norms: dict[str, float]
    column_vectors: Tensor | None
    notes: dict[str, Tensor] = field(default_factory=dict)

    @property
    def reported(self) -> dict[str, Tensor]:
        """What is added up over an epoch."""
        terms = {f"loss/{name}": value for name, value in self.values.items() if name not in (LOSS, NORM)}
        return {"loss": self.values[LOSS], **terms, **self.notes}
