"""(query, candidate) pairs given as lists per query, found again by tile without a loop over queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raydistill.errors import ShapeError


@dataclass(frozen=True, eq=False)
class PairIndex:
    """Distinct (row, column) pairs of a `rows` x `width` table.

    Attributes:
        keys: `(pairs,)` int64, ascending and distinct: list * width + column.
        num_rows: number of rows.
        width: number of columns.
        list_of: `(rows,)` int64, which list of columns each row has; None = the one of its own number. Many rows with one long list need it once.
    """

    keys: Tensor
    num_rows: int
    width: int
    list_of: Tensor | None = None

    @classmethod
    def from_pairs(
        cls, rows: Tensor, columns: Tensor, num_rows: int, width: int, list_of: Tensor | None = None
    ) -> PairIndex:
        """Index pairs in any order, repeated ones once; columns outside 0..width-1 are another shard's and dropped. With `list_of`, `rows` are lists."""
        inside = (columns >= 0) & (columns < width)
        keys = rows[inside] * width + columns[inside]
        if len(keys) and not bool((keys[1:] > keys[:-1]).all()):
            keys = torch.unique(keys)
        return cls(keys, num_rows, width, list_of)

    def counts(self) -> Tensor:
        """Number of pairs per row, `(rows,)` int64."""
        first_key = self._lists(slice(0, self.num_rows)) * self.width
        return torch.searchsorted(self.keys, first_key + self.width) - torch.searchsorted(self.keys, first_key)

    def _lists(self, rows: slice) -> Tensor:
        if self.list_of is None:
            return torch.arange(rows.start, rows.stop, device=self.keys.device)
        return self.list_of[rows]

    def block(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """List the pairs inside a tile.

        Args:
            rows: first and one past the last row of the tile.
            columns: the same for columns.

        Returns:
            row and column numbers counted from the tile's corner, each `(pairs in the tile,)` int64.
        """
        first_key = self._lists(rows) * self.width
        starts = torch.searchsorted(self.keys, first_key + columns.start)
        lengths = torch.searchsorted(self.keys, first_key + columns.stop) - starts
        local_rows = torch.repeat_interleave(lengths)
        skipped = lengths.cumsum(0) - lengths
        places = torch.arange(len(local_rows), device=self.keys.device) + (starts - skipped)[local_rows]
        return local_rows, self.keys[places] - first_key[local_rows] - columns.start


def rows_of_lists(name: str, offsets: Tensor, ids: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Spread lists per row into pairs.

    Args:
        name: what the lists are, for the message.
        offsets: `(rows + 1,)` integers; row i has `ids[offsets[i]:offsets[i + 1]]`.
        ids: `(pairs,)` integers, not negative.
        num_rows: number of rows.

    Returns:
        row number and id of each pair, both `(pairs,)` int64.

    Raises:
        ShapeError: the offsets are not those of `num_rows` lists over `ids`, or an id is negative.
    """
    if offsets.shape != (num_rows + 1,) or ids.ndim != 1 or offsets.is_floating_point() or ids.is_floating_point():
        raise ShapeError(
            f"{name}: offsets of shape {tuple(offsets.shape)} and ids of shape {tuple(ids.shape)}",
            expected=f"integers of shapes ({num_rows + 1},) and (pairs,)",
            consequence="a query would be filtered by another query's list",
        )
    offsets, ids = offsets.long(), ids.long()
    lengths = offsets.diff()
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(ids) or bool((lengths < 0).any()) or bool((ids < 0).any()):
        raise ShapeError(
            f"{name}: offsets from {int(offsets[0])} to {int(offsets[-1])} over {len(ids)} ids",
            expected="ascending offsets from 0 to the number of ids, and no negative id",
            consequence="a query would be filtered by another query's list",
        )
    return torch.repeat_interleave(lengths), ids


def left_out_pairs(rows: Tensor, known: Tensor, gold: Tensor, first_candidate: int, width: int) -> PairIndex:
    """Index everything of a shard that is no rival: known-true candidates and the gold itself.

    Args:
        rows: `(pairs,)` query of each known-true pair.
        known: `(pairs,)` id of its candidate.
        gold: `(queries,)` id of each right answer.
        first_candidate: id of the shard's first candidate.
        width: candidates in the shard.
    """
    missing = (~_gold_is_listed(rows, known, gold)).nonzero().flatten()
    if len(missing):
        rows, known = torch.cat((rows, missing)), torch.cat((known, gold[missing]))
    return PairIndex.from_pairs(rows, known - first_candidate, len(gold), width)


def left_out_lists(
    lists: Tensor, known: Tensor, list_of: Tensor, gold: Tensor, first_candidate: int, width: int
) -> PairIndex:
    """As `left_out_pairs`, where queries share lists of known-true candidates, which name the gold of each of them.

    Args:
        lists: `(pairs,)` list of each known-true candidate.
        known: `(pairs,)` its id.
        list_of: `(queries,)` which list each query has.
        gold: `(queries,)` id of each right answer.
        first_candidate: id of the shard's first candidate.
        width: candidates in the shard.

    Raises:
        ShapeError: not one list per query, or a query whose gold is not in its list.
    """
    if list_of.shape != gold.shape or list_of.is_floating_point():
        raise ShapeError(
            f"lists of queries of shape {tuple(list_of.shape)} and type {list_of.dtype}",
            expected=f"{len(gold)} integers, the list of each query",
        )
    list_of = list_of.to(gold.device).long()
    # Of all shards: the gold may be another one's.
    span = 1 + max((int(ids.max()) for ids in (known, gold) if len(ids)), default=0)
    unlisted = ~torch.isin(list_of * span + gold, lists * span + known)
    if bool(unlisted.any()):
        raise ShapeError(
            f"the gold of query {int(unlisted.nonzero()[0])} is not in the list that it shares",
            expected="lists of all known-true candidates of a query, the right one among them",
            consequence="the gold would be counted among its own rivals",
            remedy="give each query a list of its own",
        )
    return PairIndex.from_pairs(lists, known - first_candidate, len(gold), width, list_of)


def raised_pairs(
    offsets: Tensor | None, ids: Tensor | None, gold: Tensor, first_candidate: int, width: int
) -> tuple[PairIndex, Tensor]:
    """Index the pairs of a shard that get a bonus.

    Args:
        offsets: `(queries + 1,)`, bounds of each query's list, or None for no list.
        ids: candidates of the lists, together with `offsets`.
        gold: `(queries,)` id of each right answer.
        first_candidate: id of the shard's first candidate.
        width: candidates in the shard.

    Returns:
        the pairs, and `(queries,)` True = the gold gets the bonus, in whichever shard it lies.

    Raises:
        ShapeError: offsets or ids alone, or lists that do not fit the queries.
    """
    empty = torch.empty(0, dtype=torch.int64, device=gold.device)
    if offsets is None and ids is None:
        return PairIndex(empty, len(gold), width), torch.zeros_like(gold, dtype=torch.bool)
    if offsets is None or ids is None:
        raise ShapeError(
            "bonus lists with offsets or ids alone", expected="both bonus_offsets and bonus_ids, or neither"
        )
    rows, ids = (part.to(gold.device) for part in rows_of_lists("bonus candidates", offsets, ids, len(gold)))
    return PairIndex.from_pairs(rows, ids - first_candidate, len(gold), width), _gold_is_listed(rows, ids, gold)


def _gold_is_listed(rows: Tensor, ids: Tensor, gold: Tensor) -> Tensor:
    listed = torch.zeros_like(gold, dtype=torch.bool)
    listed[rows[ids == gold[rows]]] = True
    return listed


def checked_gold(gold: Tensor, num_queries: int, allowed: range | None) -> Tensor:
    """Return the gold ids as int64.

    Args:
        gold: `(queries,)` integers.
        num_queries: how many there must be.
        allowed: the ids at hand; None = any.

    Raises:
        ShapeError: not one id per query, or an id that is not allowed.
    """
    if gold.shape != (num_queries,) or gold.is_floating_point():
        raise ShapeError(
            f"gold of shape {tuple(gold.shape)} and type {gold.dtype}",
            expected=f"{num_queries} candidate ids, one per query",
        )
    if num_queries and allowed is not None and (int(gold.min()) < allowed.start or int(gold.max()) >= allowed.stop):
        raise ShapeError(
            f"gold ids from {int(gold.min())} to {int(gold.max())}",
            expected=f"ids from {allowed.start} to {allowed.stop - 1}, the candidates at hand",
            consequence="some queries would have no right answer among their candidates",
            remedy="where candidates are sharded, pass gold_vectors",
        )
    return gold.long()
