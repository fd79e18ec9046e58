"""Ranks as counts: how many rivals stand above the gold candidate and how many level with it; for score tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from raydistill.errors import ConfigError, ShapeError
from raydistill.evaluation.pairs import checked_gold, left_out_pairs, rows_of_lists

TieRule: TypeAlias = Literal["optimistic", "realistic", "pessimistic"]

TIE_RULES: tuple[TieRule, TieRule, TieRule] = ("optimistic", "realistic", "pessimistic")


@dataclass(frozen=True, eq=False)
class Ranks:
    """How many rivals stand above and level with the gold candidate. The gold is never its own rival.

    Counts over shards of the candidates add up: `Ranks.__add__`.

    Attributes:
        better: `(queries,)` int64, rivals with a score strictly above the gold's.
        tied: `(queries,)` int64, rivals with exactly the gold's score.
        rivals: `(queries,)` int64, candidates compared, without the gold.
    """

    better: Tensor
    tied: Tensor
    rivals: Tensor

    def __post_init__(self) -> None:
        shapes = [tuple(count.shape) for count in (self.better, self.tied, self.rivals)]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1:
            raise ShapeError(f"counts of shapes {shapes}", expected="three vectors of one length, a number per query")

    @property
    def options(self) -> Tensor:
        """Candidates compared, gold included."""
        return self.rivals + 1

    @property
    def optimistic(self) -> Tensor:
        """Rank when the gold comes first among equals, int64."""
        return 1 + self.better

    @property
    def pessimistic(self) -> Tensor:
        """Rank when the gold comes last among equals, int64."""
        return 1 + self.better + self.tied

    @property
    def realistic(self) -> Tensor:
        """Mean of the optimistic and the pessimistic rank, float64: what breaking ties by chance gives on average."""
        return (self.optimistic + self.pessimistic).double() / 2

    def under(self, tie_rule: TieRule) -> Tensor:
        """Return the ranks under a tie rule, `(queries,)` float64."""
        if tie_rule not in TIE_RULES:
            raise ConfigError(
                f"tie rule '{tie_rule}'", expected=" or ".join(TIE_RULES), remedy="leave the default, realistic"
            )
        by_rule = {"optimistic": self.optimistic, "realistic": self.realistic, "pessimistic": self.pessimistic}
        return by_rule[tie_rule].double()

    def select(self, rows: Tensor) -> Ranks:
        """Return the ranks of some queries, given by row numbers or a boolean mask."""
        return Ranks(self.better[rows], self.tied[rows], self.rivals[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[Ranks]) -> Ranks:
        """Join the ranks of different queries."""
        better, tied, rivals = zip(*((part.better, part.tied, part.rivals) for part in parts), strict=True)
        return cls(torch.cat(better), torch.cat(tied), torch.cat(rivals))

    def __len__(self) -> int:
        return len(self.better)

    def __add__(self, other: Ranks) -> Ranks:
        """Add the counts of the same queries over another shard of the candidates."""
        if len(self) != len(other):
            raise ShapeError(
                f"ranks of {len(self)} and {len(other)} queries",
                expected="two shards of candidates for the same queries",
                remedy="to join different queries, use Ranks.concatenate",
            )
        return Ranks(self.better + other.better, self.tied + other.tied, self.rivals + other.rivals)


def ranks_of_scores(scores: Tensor, gold: Tensor, known_offsets: Tensor, known_ids: Tensor) -> Ranks:
    """Rank the gold candidates from a full table of scores.

    Args:
        scores: `(queries, candidates)`; NaN = not a candidate for this query.
        gold: `(queries,)` column of the right answer.
        known_offsets: `(queries + 1,)`, bounds of each query's list in `known_ids`.
        known_ids: columns known to be true; they leave the comparison, except the gold.

    Raises:
        ShapeError: shapes that do not fit, an id outside the table, or a gold score that is NaN.
    """
    if scores.ndim != 2 or not scores.is_floating_point():
        raise ShapeError(
            f"scores of shape {tuple(scores.shape)} and type {scores.dtype}",
            expected="floats of shape (queries, candidates)",
        )
    num_queries, width = scores.shape
    rows, known = rows_of_lists("known-true candidates", known_offsets, known_ids, num_queries)
    gold = checked_gold(gold, num_queries, range(width))
    if len(known) and int(known.max()) >= width:
        raise ShapeError(
            f"known-true candidate {int(known.max())}", expected=f"ids below {width}, the number of candidates"
        )
    gold_scores = scores.gather(1, gold[:, None])
    if bool(gold_scores.isnan().any()):
        row = int(gold_scores.isnan().flatten().nonzero()[0])
        raise ShapeError(
            f"a NaN score for the gold candidate of query {row}",
            expected="a number",
            consequence="nothing compares with NaN, so the gold would be ranked first",
            remedy="look for the NaN in the vectors of this query",
        )
    left_out = left_out_pairs(rows, known, gold, 0, width)
    rows, columns = left_out.block(slice(0, num_queries), slice(0, width))
    dropped = scores[rows, columns]

    def count(table: Tensor, listed: Tensor) -> Tensor:
        return table.sum(dim=1).index_add(0, rows, listed.long(), alpha=-1)

    listed_gold = gold_scores[rows, 0]
    return Ranks(
        count(scores > gold_scores, dropped > listed_gold),
        count(scores == gold_scores, dropped == listed_gold),
        count(~scores.isnan(), ~dropped.isnan()),
    )
