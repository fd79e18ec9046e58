"""From ranks to numbers: mean rank, MRR, Hits@k, adjusted mean rank index, and how sure one can be of the MRR.

Every number is a mean over queries, in float64, under a named tie rule. The MRR is also given under the other two
rules, since their distance is what ties alone can make of a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from raydistill.errors import DataError, ShapeError
from raydistill.evaluation.ranks import TIE_RULES, Ranks, TieRule

Direction: TypeAlias = Literal["head", "tail", "both"]

DIRECTIONS: tuple[Direction, Direction, Direction] = ("head", "tail", "both")
HITS_AT = (1, 3, 10)

_DRAWS_AT_ONCE = 2**21


def metrics_of(ranks: Ranks, *, tie_rule: TieRule = "realistic") -> dict[str, float]:
    """Compute the metrics of one group of queries.

    Args:
        ranks: of at least one query.
        tie_rule: for every metric without a rule in its name.

    Returns:
        `mr` (mean rank), `mrr` (mean reciprocal rank), `hits@1`, `hits@3`, `hits@10` (share of ranks <= k), `amri`
        (adjusted mean rank index, 1 = always first, 0 = no better than chance), `mrr.<rule>` for the two other rules,
        and `queries` (their number).

    Raises:
        DataError: no query.

    Source: PyKEEN's definitions; AMRI: Berrendorf et al. 2020, arXiv 2002.06914. Hits@k compares the realistic rank
        with k as PyKEEN does, so that a gold tied with one rival for the first place counts as 0 for Hits@1, not as a
        half.
    """
    _refuse_empty(ranks)
    by_rule = {rule: _rank_values(ranks, rule) for rule in TIE_RULES}
    values = by_rule[tie_rule] if tie_rule in by_rule else _rank_values(ranks, tie_rule)
    metrics = {"mr": float(values.mean()), "mrr": float((1.0 / values).mean())}
    metrics.update({f"hits@{k}": float((values <= k).mean()) for k in HITS_AT})
    metrics["amri"] = _adjusted(metrics["mr"], ranks)
    metrics |= {f"mrr.{rule}": float((1.0 / by_rule[rule]).mean()) for rule in TIE_RULES if rule != tie_rule}
    metrics["queries"] = float(len(ranks))
    return metrics


def adjusted_mean_rank_index(ranks: Ranks, *, tie_rule: TieRule = "realistic") -> float:
    """Return 1 - (MR - 1) / (E[MR] - 1), where E[MR] is the mean rank of random scores, the mean of (options + 1) / 2.

    1 means always first, 0 no better than chance, -1 always last. Where no query has a rival, nothing can be told and
    the result is 0.

    Source: Berrendorf et al. 2020, arXiv 2002.06914.
    """
    _refuse_empty(ranks)
    return _adjusted(float(_rank_values(ranks, tie_rule).mean()), ranks)


def keyed(split: str, direction: Direction, metrics: Mapping[str, float], *, suffix: str = "") -> dict[str, float]:
    """Give metrics their full names, such as `test/both/mrr`.

    Args:
        split: train, valid or test.
        direction: head, tail or both.
        metrics: short name to value.
        suffix: names what was done to the scores, e.g. `+neighbors`.
    """
    return {f"{split}/{direction}/{name}{suffix}": value for name, value in metrics.items()}


def mrr_interval(
    ranks: Ranks, *, tie_rule: TieRule = "realistic", confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return a percentile bootstrap interval of the MRR.

    Queries are drawn with replacement as if independent; the two queries of one triple are not quite, so the interval
    of `both` is a little narrow.

    Args:
        ranks: of at least one query.
        tie_rule: which rank is inverted.
        confidence: share of resampled means inside the interval, in (0, 1).
        resamples: number of resampled means.
        seed: of the draws; equal seeds give equal intervals.

    Raises:
        DataError: no query.
        ShapeError: confidence or resamples out of range.
    """
    _refuse_empty(ranks)
    if not 0.0 < confidence < 1.0 or resamples < 1:
        raise ShapeError(
            f"confidence={confidence}, resamples={resamples}", expected="confidence in (0, 1), at least 1 resample"
        )
    reciprocal = 1.0 / _rank_values(ranks, tie_rule)
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(reciprocal))
    means = np.concatenate(
        [
            reciprocal[
                generator.integers(len(reciprocal), size=(min(at_once, resamples - done), len(reciprocal)))
            ].mean(axis=1)
            for done in range(0, resamples, at_once)
        ]
    )
    low, high = np.quantile(means, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return float(low), float(high)


def _adjusted(mean_rank: float, ranks: Ranks) -> float:
    expected = 1.0 + float(ranks.rivals.double().mean()) / 2.0
    return 0.0 if expected == 1.0 else 1.0 - (mean_rank - 1.0) / (expected - 1.0)


def _rank_values(ranks: Ranks, tie_rule: TieRule) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = ranks.under(tie_rule).cpu().numpy()
    return values


def _refuse_empty(ranks: Ranks) -> None:
    if len(ranks) == 0:
        raise DataError(
            "no query to average over",
            expected="at least one query",
            consequence="the metrics would be NaN",
            remedy="choose a split that has triples",
        )
