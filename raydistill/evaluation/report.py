"""The result of a link prediction evaluation, with everything needed to read its numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from raydistill.evaluation.metrics import DIRECTIONS, keyed, metrics_of, mrr_interval
from raydistill.evaluation.ranks import Ranks, TieRule
from raydistill.evaluation.relations import CATEGORIES, RelationCategory, breakdown
from raydistill.kg.triples import IntArray

RERANKED_SUFFIX = "+neighbors"


@dataclass(frozen=True)
class RerankingSettings:
    """How scores were changed by the neighbourhood of the head in the training graph."""

    hops: int
    bonus: float
    max_entities: int


@dataclass(frozen=True, eq=False)
class LinkPredictionReport:
    """Metrics of one split, filtered, both directions.

    Where scores were re-ranked with neighbours, every metric name ends in `+neighbors`, here and in the breakdowns.

    Attributes:
        split: train, valid or test.
        tie_rule: of every metric without a rule in its name.
        metrics: `test/both/mrr` and the like, see `metrics_of`.
        intervals: 95 % bootstrap interval of each `<split>/<direction>/mrr`.
        per_relation: relation id to metrics such as `tail/mrr`.
        per_category: the same per relation category; categories without a query are absent.
        homonym_ties: share of queries, in [0, 1], whose gold has exactly the score of a rival, mostly because both have
            the same text.
        reranking: settings of the neighbour re-ranking, or None.
        num_queries: queries ranked, two per triple.
        num_distinct_queries: query texts encoded.
        num_candidates: entities ranked.
        ranks: of each query, tail queries of all triples first, then head queries; not part of the JSON.
        entity_bits: of each number of the entity vectors that were ranked; 32 = float32, as they were encoded.
    """

    split: str
    tie_rule: TieRule
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    per_relation: dict[int, dict[str, float]]
    per_category: dict[RelationCategory, dict[str, float]]
    homonym_ties: float
    reranking: RerankingSettings | None
    num_queries: int
    num_distinct_queries: int
    num_candidates: int
    ranks: Ranks
    entity_bits: int = 32

    @classmethod
    def from_ranks(
        cls,
        ranks: Ranks,
        relations: IntArray,
        categories: Sequence[RelationCategory],
        *,
        split: str,
        tie_rule: TieRule,
        reranking: RerankingSettings | None,
        num_distinct_queries: int,
        num_candidates: int,
        seed: int,
    ) -> LinkPredictionReport:
        """Compute all metrics of ranked queries.

        Args:
            ranks: of n queries, on the CPU.
            relations: `(n,)` relation of each query in 0..2R-1; inverse relations ask for heads.
            categories: of the R relations.
            split: name of the split.
            tie_rule: of every metric without a rule in its name.
            reranking: how the scores were re-ranked, or None.
            num_distinct_queries: query texts encoded.
            num_candidates: entities ranked.
            seed: of the bootstrap.

        Raises:
            DataError: one of the directions has no query.
        """
        num_relations, suffix = len(categories), RERANKED_SUFFIX if reranking else ""
        is_inverse, relation = relations >= num_relations, relations % num_relations
        category = np.array([CATEGORIES.index(name) for name in categories])[relation]
        asked = {"head": is_inverse, "tail": ~is_inverse, "both": np.ones_like(is_inverse)}
        metrics: dict[str, float] = {}
        intervals: dict[str, tuple[float, float]] = {}
        for direction in DIRECTIONS:
            chosen = ranks.select(torch.from_numpy(asked[direction]))
            metrics |= keyed(split, direction, metrics_of(chosen, tie_rule=tie_rule), suffix=suffix)
            intervals[f"{split}/{direction}/mrr{suffix}"] = mrr_interval(chosen, tie_rule=tie_rule, seed=seed)
        names = range(num_relations)
        return cls(
            split=split,
            tie_rule=tie_rule,
            metrics=metrics,
            intervals=intervals,
            per_relation=breakdown(ranks, names, relation, is_inverse, tie_rule=tie_rule, suffix=suffix),
            per_category=breakdown(ranks, CATEGORIES, category, is_inverse, tie_rule=tie_rule, suffix=suffix),
            homonym_ties=float((ranks.tied > 0).double().mean()),
            reranking=reranking,
            num_queries=len(ranks),
            num_distinct_queries=num_distinct_queries,
            num_candidates=num_candidates,
            ranks=ranks,
        )

    @property
    def reranked(self) -> bool:
        """Whether scores were re-ranked with neighbours."""
        return self.reranking is not None

    def to_dict(self) -> dict[str, object]:
        """Return everything but the ranks, in types JSON knows."""
        return {
            "split": self.split,
            "tie_rule": self.tie_rule,
            "metrics": dict(self.metrics),
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "per_relation": {str(relation): dict(row) for relation, row in self.per_relation.items()},
            "per_category": {category: dict(row) for category, row in self.per_category.items()},
            "homonym_ties": self.homonym_ties,
            "reranked": self.reranked,
            "reranking": None if self.reranking is None else asdict(self.reranking),
            "num_queries": self.num_queries,
            "num_distinct_queries": self.num_distinct_queries,
            "num_candidates": self.num_candidates,
            "entity_bits": self.entity_bits,
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)
