"""Relation categories (1-1, 1-N, N-1, N-N), and metrics per relation and per category."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from raydistill.errors import ShapeError
from raydistill.evaluation.metrics import Direction, metrics_of
from raydistill.evaluation.ranks import Ranks, TieRule
from raydistill.kg.triples import IntArray, check_ids

RelationCategory: TypeAlias = Literal["1-1", "1-N", "N-1", "N-N", "unseen"]

CATEGORIES: tuple[RelationCategory, ...] = ("1-1", "1-N", "N-1", "N-N", "unseen")

Group = TypeVar("Group", bound=Hashable)


def relation_categories(
    train: IntArray, num_entities: int, num_relations: int, *, threshold: float = 1.5
) -> tuple[RelationCategory, ...]:
    """Sort relations by how many tails a head has on average, and how many heads a tail.

    "1-N" reads: one head, many tails.

    Args:
        train: training triples `(n, 3)`, without inverses; repeated rows count once.
        num_entities: number of entities.
        num_relations: R, without inverses.
        threshold: a mean below it counts as one, else as many.

    Returns:
        the category of each relation; "unseen" where training has no triple of it.

    Raises:
        ShapeError: not an `(n, 3)` array of integers.
        DataError: an id is out of range.

    Source: Bordes et al. 2013, "Translating Embeddings for Modeling Multi-relational Data", section 4.3 (threshold
        1.5).
    """
    check_ids(train, num_entities, num_relations)
    triples = np.unique(train, axis=0)
    num_triples = np.bincount(triples[:, 1], minlength=num_relations)
    tails_per_head = _mean_per_entity(triples[:, [1, 0]], num_triples)
    heads_per_tail = _mean_per_entity(triples[:, [1, 2]], num_triples)
    names: dict[tuple[bool, bool], RelationCategory] = {
        (False, False): "1-1",
        (False, True): "1-N",
        (True, False): "N-1",
        (True, True): "N-N",
    }
    return tuple(
        names[bool(heads_per_tail[relation] >= threshold), bool(tails_per_head[relation] >= threshold)]
        if num_triples[relation]
        else "unseen"
        for relation in range(num_relations)
    )


def breakdown(
    ranks: Ranks,
    groups: Sequence[Group],
    group_of_query: IntArray,
    is_inverse: npt.NDArray[np.bool_],
    *,
    tie_rule: TieRule = "realistic",
    suffix: str = "",
) -> dict[Group, dict[str, float]]:
    """Compute the metrics of each group of queries, per direction.

    Args:
        ranks: of n queries.
        groups: names of the groups, in the order of their numbers.
        group_of_query: `(n,)` number of each query's group.
        is_inverse: `(n,)` True = the query asks for a head.
        tie_rule: as in `metrics_of`.
        suffix: appended to each metric's name, as in `keyed`.

    Returns:
        group to metrics such as `tail/mrr`; groups without a query are absent, and so are directions without one.

    Raises:
        ShapeError: one entry per query is not given, or a group number has no name.
    """
    if not len(ranks) == len(group_of_query) == len(is_inverse):
        raise ShapeError(
            f"{len(ranks)} ranks, {len(group_of_query)} groups, {len(is_inverse)} directions",
            expected="one of each per query",
        )
    if len(ranks) and (group_of_query.min() < 0 or group_of_query.max() >= len(groups)):
        raise ShapeError(f"group number {int(group_of_query.max())}", expected=f"numbers below {len(groups)}")
    order = np.argsort(group_of_query, kind="stable")
    bounds = np.searchsorted(group_of_query[order], np.arange(len(groups) + 1))
    table: dict[Group, dict[str, float]] = {}
    for number, group in enumerate(groups):
        rows = order[bounds[number] : bounds[number + 1]]
        by_direction: dict[Direction, npt.NDArray[np.intp]] = {
            "head": rows[is_inverse[rows]],
            "tail": rows[~is_inverse[rows]],
            "both": rows,
        }
        if len(rows):
            table[group] = {
                f"{direction}/{name}{suffix}": value
                for direction, chosen in by_direction.items()
                if len(chosen)
                for name, value in metrics_of(ranks.select(torch.from_numpy(chosen)), tie_rule=tie_rule).items()
            }
    return table


def _mean_per_entity(relations_and_entities: IntArray, num_triples: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    distinct = np.unique(relations_and_entities, axis=0)[:, 0]
    entities = np.bincount(distinct, minlength=len(num_triples))
    return num_triples / np.maximum(entities, 1)
