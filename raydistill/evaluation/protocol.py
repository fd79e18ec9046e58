"""The filtered link prediction protocol: which queries a split asks, how they are ranked, what is reported.

Each triple (head, relation, tail) asks twice: (head, relation) for the tail, and (tail, inverse relation) for the head.
Known-true answers of all splits leave the comparison. Who encodes the texts is none of this file's business: it takes
vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raydistill.errors import DataError, ShapeError
from raydistill.evaluation.lists import select_lists
from raydistill.evaluation.ranking import rank_candidates
from raydistill.evaluation.ranks import Ranks, TieRule
from raydistill.evaluation.relations import RelationCategory, relation_categories
from raydistill.evaluation.report import LinkPredictionReport, RerankingSettings
from raydistill.evaluation.reranking import NeighborReranking
from raydistill.evaluation.shards import Shard
from raydistill.kg.triples import IntArray, check_ids, query_keys, with_inverses
from raydistill.kg.truth import TruthIndex

_RERANKED_AT_ONCE = 256
_QUERIES_AT_ONCE, _ANSWERS_AT_ONCE = 2**13, 2**18
"""Queries whose vectors, and known answers whose places, are held at a time: 13 MB of 384 units, and some 15 MB."""


@dataclass(frozen=True, eq=False)
class LinkPredictionTask:
    """All queries of a split. With n triples there are 2n queries: the n tail queries, then the n head queries.

    Attributes:
        split: its name, the first part of every metric's name.
        num_entities: number of candidates.
        num_relations: R, without inverses.
        heads: `(2n,)` the entity asked about.
        relations: `(2n,)` ids in 0..2R-1, inverses included.
        gold: `(2n,)` the right answer.
        distinct_heads: `(m,)` heads of the distinct queries, which are encoded once each.
        distinct_relations: `(m,)` their relations.
        distinct_of_query: `(2n,)` which distinct query each query is.
        known_offsets: `(m + 1,)` bounds of each distinct query's list in `known_ids`. In FB15k-237's test split these have 300 thousand answers;
            a list for each query would make 10 million of them.
        known_ids: known-true answers, from all splits.
        categories: of each relation, from the training triples.
    """

    split: str
    num_entities: int
    num_relations: int
    heads: IntArray
    relations: IntArray
    gold: IntArray
    distinct_heads: IntArray
    distinct_relations: IntArray
    distinct_of_query: npt.NDArray[np.intp]
    known_offsets: npt.NDArray[np.int64]
    known_ids: npt.NDArray[np.int32]
    categories: tuple[RelationCategory, ...]

    @classmethod
    def from_triples(
        cls, triples: IntArray, truth: TruthIndex, train: IntArray, *, split: str = "test"
    ) -> LinkPredictionTask:
        """List the queries of a split.

        Args:
            triples: `(n, 3)` of the split, without inverses.
            truth: known-true triples of ALL splits.
            train: `(any, 3)` training triples; they decide the relation categories.
            split: name of the split.

        Raises:
            DataError: no triple, ids out of range, or a triple that `truth` does not know.
        """
        check_ids(triples, truth.num_entities, truth.num_relations)
        if len(triples) == 0:
            raise DataError(
                f"the split '{split}' has no triples",
                expected="at least one",
                consequence="every metric would be NaN",
                remedy="choose another split, or prepare the dataset with one",
            )
        heads, relations, gold = with_inverses(triples, truth.num_relations).T
        known = truth.contains(heads, relations, gold)
        if not known.all():
            raise DataError(
                f"{int((~known).sum())} of {len(known)} queries of '{split}' whose answer is not known to be true",
                expected="an index over all splits",
                consequence="ranks would be filtered by some splits only, and not be comparable with anybody's",
                remedy="build the TruthIndex from train, valid and test together",
            )
        _, first, distinct_of_query = np.unique(
            query_keys(heads, relations, truth.num_relations), return_index=True, return_inverse=True
        )
        offsets, ids = truth.known_tails(heads[first], relations[first])
        return cls(
            split,
            truth.num_entities,
            truth.num_relations,
            heads,
            relations,
            gold,
            heads[first],
            relations[first],
            distinct_of_query.reshape(-1),
            offsets,
            ids,
            relation_categories(train, truth.num_entities, truth.num_relations),
        )

    def evaluate(
        self,
        query_vectors: Tensor,
        entity_vectors: Tensor,
        *,
        rerank: NeighborReranking | None = None,
        shard: Shard | None = None,
        tie_rule: TieRule = "realistic",
        seed: int = 0,
    ) -> LinkPredictionReport:
        """Rank all entities for every query and report.

        Args:
            query_vectors: `(m, hidden)`, of `distinct_heads` and `distinct_relations` in their order.
            entity_vectors: `(entities, hidden)`; with a shard, those of the shard in its order.
            rerank: the training graph, to re-rank with neighbours; None = off.
            shard: this worker's part of the entities, where several rank together: all call with the same queries, and
                all get the ranks among all entities.
            tie_rule: of every metric without a rule in its name.
            seed: of the bootstrap.

        Raises:
            ShapeError: not one vector per distinct query and per entity, or vectors that are not finite.
            DataError: the graph of `rerank` has another number of entities.
        """
        return LinkPredictionReport.from_ranks(
            self.rank(query_vectors, entity_vectors, rerank=rerank, shard=shard),
            self.relations,
            self.categories,
            split=self.split,
            tie_rule=tie_rule,
            reranking=RerankingSettings(rerank.hops, rerank.bonus, rerank.max_entities) if rerank else None,
            num_distinct_queries=len(self.distinct_heads),
            num_candidates=self.num_entities,
            seed=seed,
        )

    def rank(
        self,
        query_vectors: Tensor,
        entity_vectors: Tensor,
        *,
        rerank: NeighborReranking | None = None,
        shard: Shard | None = None,
    ) -> Ranks:
        """Rank all entities for every query; arguments and errors as in `evaluate`. The ranks come back on the CPU."""
        self._check_rows("query vectors", query_vectors, len(self.distinct_heads))
        shard = shard or Shard.whole(self.num_entities)
        self._check_rows("entity vectors", entity_vectors, len(shard.entities))
        if rerank is None:
            return self._rank_blocks(self._blocks_of_known_answers(), query_vectors, entity_vectors, None, shard)
        if rerank.num_entities != self.num_entities:
            raise DataError(
                f"a re-ranking graph of {rerank.num_entities} entities",
                expected=f"{self.num_entities}, as the candidates",
                consequence="the bonus would go to other entities",
                remedy="build it from the training triples of the same dataset",
            )
        # Neighbourhoods can be as large as the graph: they are made for few queries at a time, and queries of one head
        # stand together.
        order = np.argsort(self.heads, kind="stable")
        blocks = [order[start : start + _RERANKED_AT_ONCE] for start in range(0, len(order), _RERANKED_AT_ONCE)]
        return self._rank_blocks(blocks, query_vectors, entity_vectors, rerank, shard)

    def _rank_blocks(
        self,
        blocks: list[npt.NDArray[np.intp]],
        query_vectors: Tensor,
        entity_vectors: Tensor,
        rerank: NeighborReranking | None,
        shard: Shard,
    ) -> Ranks:
        """Ranks of all queries in their order, from blocks of them in any order."""
        parts = [self._rank_rows(rows, query_vectors, entity_vectors, rerank, shard) for rows in blocks]
        return Ranks.concatenate(parts).select(torch.from_numpy(np.argsort(np.concatenate(blocks))))

    def _blocks_of_known_answers(self) -> list[npt.NDArray[np.intp]]:
        """All queries, equal ones next to each other, so many at a time that the lists of all but one have _ANSWERS_AT_ONCE known answers at most."""
        order = np.argsort(self.distinct_of_query, kind="stable")
        asked = self.distinct_of_query[order]
        answers = np.where(np.diff(asked, prepend=-1) > 0, np.diff(self.known_offsets)[asked], 0)
        block = np.cumsum(answers + _ANSWERS_AT_ONCE // _QUERIES_AT_ONCE) // _ANSWERS_AT_ONCE
        return np.split(order, np.flatnonzero(np.diff(block)) + 1)

    def _rank_rows(
        self,
        rows: npt.NDArray[np.intp],
        query_vectors: Tensor,
        entity_vectors: Tensor,
        rerank: NeighborReranking | None,
        shard: Shard,
    ) -> Ranks:
        asked, list_of_query = np.unique(self.distinct_of_query[rows], return_inverse=True)
        known_offsets, known_ids = select_lists(self.known_offsets, self.known_ids, asked)
        bonus_lists = (None, None) if rerank is None else rerank.within_reach(self.heads[rows])
        bonus_offsets = None if bonus_lists[0] is None else torch.from_numpy(bonus_lists[0])
        bonus_ids = None if bonus_lists[1] is None else torch.from_numpy(shard.places_of(bonus_lists[1]))
        ranks = rank_candidates(
            query_vectors[torch.from_numpy(self.distinct_of_query[rows]).to(query_vectors.device)],
            entity_vectors,
            torch.from_numpy(shard.places_of(self.gold[rows])),
            torch.from_numpy(known_offsets),
            torch.from_numpy(shard.places_of(known_ids)),
            list_of_query=torch.from_numpy(list_of_query.reshape(-1)),
            bonus_offsets=bonus_offsets,
            bonus_ids=bonus_ids,
            bonus=0.0 if rerank is None else rerank.bonus,
            first_candidate=shard.first,
            total=shard.total,
        )
        counts = torch.stack([ranks.better, ranks.tied, ranks.rivals])
        return Ranks(*(counts if shard.total is None else shard.total(counts)).cpu())

    @staticmethod
    def _check_rows(name: str, vectors: Tensor, expected: int) -> None:
        if vectors.ndim != 2 or len(vectors) != expected:
            raise ShapeError(
                f"{name} of shape {tuple(vectors.shape)}",
                expected=f"{expected} rows, one per {'distinct query' if name == 'query vectors' else 'entity'}",
                consequence="vectors would be read as those of other texts",
                remedy="encode them in the order of the task",
            )
