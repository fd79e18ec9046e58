"""Ranks of the gold candidate among its rivals: pure tensors, counts instead of sorting, ties kept apart.

How `rank_candidates` works:

1. The gold score of each query comes from a product of the same shape as its rivals' (`tiles.py`), because a score
   computed in another way differs in its last bit from the one in the table and turns ties into wins or losses.
2. Candidates stream by in tiles. Known-true candidates and the gold itself become NaN, which is neither above nor equal
   to anything; what is above and what is equal is counted.
3. At the gold's own column the streamed score must equal the gold score bit for bit. Where a kernel breaks this, the
   query tile is counted again with the streamed gold score.

Where several workers rank shards at once, gold scores are made where the gold is, and added up over the workers before
anything is counted; the streamed ones likewise. Every worker then counts with the same gold scores.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raydistill.errors import ShapeError
from raydistill.evaluation.pairs import (
    PairIndex,
    checked_gold,
    left_out_lists,
    left_out_pairs,
    raised_pairs,
    rows_of_lists,
)
from raydistill.evaluation.ranks import Ranks, TieRule, ranks_of_scores
from raydistill.evaluation.tiles import ScoreTiles, check_vectors, fast_tiles

__all__ = ["Ranks", "TieRule", "rank_candidates", "ranks_of_scores"]

logger = logging.getLogger(__name__)


@torch.no_grad()
def rank_candidates(
    queries: Tensor,
    candidates: Tensor,
    gold: Tensor,
    known_offsets: Tensor,
    known_ids: Tensor,
    *,
    list_of_query: Tensor | None = None,
    query_tile: int | None = None,
    candidate_tile: int | None = None,
    bonus_offsets: Tensor | None = None,
    bonus_ids: Tensor | None = None,
    bonus: float = 0.0,
    first_candidate: int = 0,
    gold_vectors: Tensor | None = None,
    total: Callable[[Tensor], Tensor] | None = None,
) -> Ranks:
    """Rank the gold candidates by inner product, without ever holding the table of scores.

    Candidates may be one shard of all: ids then count over all shards, and the ranks of the shards add up to those of
    the whole. Memory is one tile of scores, whatever the number of candidates; candidates may lie on another device
    than the queries and are moved tile by tile.

    Args:
        queries: `(queries, hidden)`, any float type (compared in float32).
        candidates: `(candidates, hidden)`, row i is candidate `first_candidate + i`.
        gold: `(queries,)` id of the right answer.
        known_offsets: `(queries + 1,)`, bounds of each query's list in `known_ids`.
        known_ids: ids known to be true; they leave the comparison, except the gold.
        list_of_query: `(queries,)` which list each query has, where several share one; `known_offsets` are then `(lists + 1,)`, and each list
            names the gold of its queries. None = each has its own.
        query_tile: queries per product; changes speed and memory, not the ranks. None = what is fast on the queries' device.
        candidate_tile: candidates per product; the same.
        bonus_offsets: `(queries + 1,)`, bounds of each query's list in `bonus_ids`.
        bonus_ids: ids whose scores rise by `bonus`, the gold's too where it is listed.
        bonus: what is added.
        first_candidate: id of the shard's first candidate.
        gold_vectors: `(queries, hidden)`, needed where a gold candidate lies in another shard.
        total: adds a tensor up over the workers that rank the other shards at this moment, with the same queries; takes
            the place of `gold_vectors`, and the shard may then be empty.

    Returns:
        counts on the device of the queries, of this shard alone.

    Raises:
        ShapeError: shapes that do not fit, vectors that are not finite, or a gold candidate that is in no place we can
            see.
    """
    if len(candidates) or total is None:
        check_vectors(queries, candidates, "candidates")
    if not math.isfinite(bonus):
        raise ShapeError(
            f"bonus={bonus}", expected="a finite number", consequence="the raised scores would not compare"
        )
    num_queries, width = len(queries), len(candidates)
    num_lists = num_queries if list_of_query is None else len(known_offsets) - 1
    rows, known = rows_of_lists("known-true candidates", known_offsets, known_ids, num_lists)
    shard = range(first_candidate, first_candidate + width)
    gold = checked_gold(gold, num_queries, shard if gold_vectors is None and total is None else None).to(queries.device)
    rows, known = rows.to(gold.device), known.to(gold.device)
    if list_of_query is None:
        left_out = left_out_pairs(rows, known, gold, first_candidate, width)
    else:
        left_out = left_out_lists(rows, known, list_of_query, gold, first_candidate, width)
    raised, gold_raised = raised_pairs(bonus_offsets, bonus_ids, gold, first_candidate, width)
    with torch.autocast(queries.device.type, enabled=False):
        fast = fast_tiles(num_queries, queries.device)
        tiles = ScoreTiles(
            fast[0] if query_tile is None else query_tile,
            fast[1] if candidate_tile is None else candidate_tile,
            queries.device,
        )
        columns = gold - first_candidate
        if total is not None:
            gold_scores = _exchanged_gold_scores(tiles, queries, candidates, columns, total)
        else:
            gold_scores = tiles.paired(queries, _gold_vectors(queries, candidates, columns, gold_vectors))
        stream = _Stream(tiles, queries, candidates, columns, left_out, raised, bonus, total)
        better, tied = stream.count(torch.where(gold_raised, gold_scores + bonus, gold_scores))
    return Ranks(better, tied, width - left_out.counts())


@dataclass(frozen=True, eq=False)
class _Stream:
    tiles: ScoreTiles
    queries: Tensor
    candidates: Tensor
    gold_columns: Tensor
    left_out: PairIndex
    raised: PairIndex
    bonus: float
    total: Callable[[Tensor], Tensor] | None

    def count(self, gold_scores: Tensor) -> tuple[Tensor, Tensor]:
        starts = list(range(0, len(self.queries), self.tiles.query_tile))
        counts = torch.zeros((2, len(self.queries)), dtype=torch.int64, device=gold_scores.device)
        streamed = self._pass(gold_scores, starts, counts)
        if self.total is not None:
            here = (self.gold_columns >= 0) & (self.gold_columns < len(self.candidates))
            streamed = self.total(torch.where(here, streamed, 0.0))
        wrong = streamed != gold_scores
        if bool(wrong.any()):
            logger.warning(
                "%d gold scores depend on their place in the product; these queries are counted again", int(wrong.sum())
            )
            again = [start for start in starts if bool(wrong[start : start + self.tiles.query_tile].any())]
            for start in again:
                counts[:, start : start + self.tiles.query_tile] = 0
            self._pass(streamed, again, counts)
        return counts[0], counts[1]

    def _pass(self, gold_scores: Tensor, starts: Sequence[int], counts: Tensor) -> Tensor:
        """Add to counts; return the gold scores as met in the stream (as given for those of other shards)."""
        streamed = gold_scores.clone()
        for first in range(0, len(self.candidates), self.tiles.candidate_tile):
            columns = slice(first, min(first + self.tiles.candidate_tile, len(self.candidates)))
            block = self.tiles.candidate_block(self.candidates[columns])
            for start in starts:
                rows = slice(start, min(start + self.tiles.query_tile, len(self.queries)))
                scores = self.tiles.scores(self.queries[rows], block, columns.stop - columns.start)
                if self.bonus != 0.0:
                    scores[self.raised.block(rows, columns)] += self.bonus
                self._read_gold(scores, rows, columns, streamed)
                scores[self.left_out.block(rows, columns)] = torch.nan
                counts[0, rows] += self.tiles.count_above(scores, gold_scores[rows])
                counts[1, rows] += self.tiles.count_equal(scores, gold_scores[rows])
        return streamed

    def _read_gold(self, scores: Tensor, rows: slice, columns: slice, streamed: Tensor) -> None:
        local = self.gold_columns[rows] - columns.start
        here = ((local >= 0) & (local < scores.shape[1])).nonzero().flatten()
        streamed[here + rows.start] = scores[here, local[here]]


def _exchanged_gold_scores(
    tiles: ScoreTiles, queries: Tensor, candidates: Tensor, columns: Tensor, total: Callable[[Tensor], Tensor]
) -> Tensor:
    """Scores of the gold candidates of this shard, and with them those that other workers made for theirs."""
    here = ((columns >= 0) & (columns < len(candidates))).nonzero().flatten()
    scores = torch.zeros(len(queries), dtype=torch.float32, device=queries.device)
    partners = candidates[columns[here].to(candidates.device)]
    scores[here] = tiles.paired(queries[here], partners)
    return total(scores)


def _gold_vectors(queries: Tensor, candidates: Tensor, columns: Tensor, given: Tensor | None) -> Tensor:
    columns = columns.to(candidates.device)
    if given is None:
        return candidates[columns]
    if given.shape != queries.shape:
        raise ShapeError(
            f"gold vectors of shape {tuple(given.shape)}", expected=f"{tuple(queries.shape)}, one gold vector per query"
        )
    if len(given):
        check_vectors(queries, given, "gold vectors")
    here = ((columns >= 0) & (columns < len(candidates))).nonzero().flatten()
    if not torch.equal(given.to(candidates.device)[here].float(), candidates[columns[here]].float()):
        raise ShapeError(
            "gold vectors that differ from the candidates with the same ids",
            expected="the very vectors of the gold candidates",
            consequence="the shards would be compared with different gold scores",
            remedy="gather gold_vectors from the same encoded entities, and check first_candidate",
        )
    return given
