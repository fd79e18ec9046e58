"""What every objective returns: one value and one weight per row.

The mean over rows is left to the trainer, because only the trainer knows how many rows the other workers hold: the mean
of the workers' means is wrong as soon as their weights differ.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from raydistill.errors import ShapeError


class Weighted(NamedTuple):
    """An objective's value for every row, and how much each row counts.

    Args:
        values: (rows,), float32 or float64; always finite where the inputs are, also in rows of weight 0.
        weights: (rows,), same type, >= 0, without gradient; 0 means that the row had nothing to compare.
    """

    values: Tensor
    weights: Tensor

    def sums(self) -> tuple[Tensor, Tensor]:
        """Return sum(w * v) and sum(w): the two numbers that add up over workers and micro-batches.

        Raises:
            ShapeError: values and weights are not two vectors of one length.
        """
        if self.values.ndim != 1 or self.values.shape != self.weights.shape:
            raise ShapeError(
                f"values of shape {tuple(self.values.shape)} with weights of shape {tuple(self.weights.shape)}",
                expected="two vectors of the same length (rows,)",
                consequence="the weights would broadcast and the mean would be over the wrong rows",
                remedy="give every row one value and one weight",
            )
        return (self.values * self.weights).sum(), self.weights.sum()

    def mean(self) -> Tensor:
        """Return sum(w * v) / sum(w), a scalar; 0 with a zero (never NaN) gradient when every weight is 0."""
        total, weight = self.sums()
        return total / weight.masked_fill(weight == 0, 1.0)
