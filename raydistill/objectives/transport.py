"""Earth mover's distance: how far the tokens of one layer have to be carried to become those of another, whichever goes where.

Token states are flat: (tokens, hidden) for all real tokens of a tower's texts, with `text_of_token` saying whose each one is. There is no padding, so none is
carried anywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raydistill.errors import ConfigError
from raydistill.objectives.checks import require_index, require_matrix, require_shape, working_dtype
from raydistill.objectives.padding import padded_texts
from raydistill.objectives.weighted import Weighted

EPSILON, ITERATIONS = 0.05, 50
"""With so few iterations a weaker entropy gives plans that carry away a few percent more or less than is there (tests/objectives/test_transport.py)."""


def self_transport(
    shallow: Tensor,
    deep: Tensor,
    text_of_token: Tensor,
    num_texts: int,
    *,
    epsilon: float = EPSILON,
    iterations: int = ITERATIONS,
) -> Weighted:
    """Cost of carrying the states of a shallow layer to those of a deep one of the same model, text by text.

        value_t = 1/d sum_ij G_ij || x_i - x'_j ||^2,   G the plan of least cost with marginals w and v
        w_i ~ max(0, x_i . mean x'),   v_j ~ max(0, x'_j . mean x),   each with sum 1

    The plan is found by Sinkhorn's iterations and taken as it is: gradients go through the distances alone, and to the shallow side alone.

    Args:
        shallow: (tokens, hidden) states x that learn.
        deep: (tokens, hidden) states x' of the same tokens; no gradient reaches them.
        text_of_token: (tokens,) int64, the text of each token, in any order.
        num_texts: number of texts.
        epsilon: strength of the entropy that makes a plan easy to find, as a share of the median distance of the text; 0 would be exact.
        iterations: of Sinkhorn's algorithm.

    Returns:
        values (num_texts,), squared units of the states, mean over units; weights 1, or 0 (and value 0) for a text without tokens.

    Raises:
        ShapeError: shapes or types that do not fit.
        ConfigError: an epsilon that is not above 0.

    Source:
        Self-feature regularisation (arXiv 2103.07350), whose versions were withdrawn for errors in its experiments: the structure is from its abstract (deep features teach
        shallow ones through an earth mover's distance with an l2 ground cost), the marginals are those of public implementations of such distances, and the
        constants are ours.
    """
    require_matrix("shallow", shallow, "(tokens, hidden)")
    require_shape("deep", deep, tuple(shallow.shape), "the shallow side's (tokens, hidden)")
    require_index("text_of_token", text_of_token, shallow.shape[0], num_texts, "(tokens,)")
    if not epsilon > 0:
        raise ConfigError(f"epsilon is {epsilon}", expected="a number above 0", remedy=f"use {EPSILON}")
    dtype = working_dtype(shallow, deep)
    x, there = padded_texts(shallow.to(dtype), text_of_token, num_texts)
    target, _ = padded_texts(deep.detach().to(dtype), text_of_token, num_texts)
    # Not by products, whose rounding makes the distance of equal states anything but 0.
    distances = torch.cdist(x, target, compute_mode="donot_use_mm_for_euclid_dist").square()
    with torch.no_grad():
        count = there.sum(1, keepdim=True).clamp(min=1)
        means = [states.sum(1, keepdim=True) / count[:, :, None] for states in (x, target)]
        sources, sinks = _shares((x * means[1]).sum(2), there), _shares((target * means[0]).sum(2), there)
        plan = transport_plan(distances, sources, sinks, epsilon=epsilon, iterations=iterations)
    values = (plan * distances).sum((1, 2)) / shallow.shape[1]
    return Weighted(values, there.any(1).to(dtype))


def transport_plan(
    distances: Tensor, sources: Tensor, sinks: Tensor, *, epsilon: float = EPSILON, iterations: int = ITERATIONS
) -> Tensor:
    """The plan of least cost, made smooth by entropy: Sinkhorn's iterations on logarithms.

    Args:
        distances: (problems, rows, columns) >= 0.
        sources: (problems, rows), what is there at first; 0 = no such row.
        sinks: (problems, columns), what has to be there in the end, with the same sum.
        epsilon: strength of the entropy, as a share of each problem's median distance.
        iterations: how many.

    Returns:
        (problems, rows, columns) >= 0 whose columns sum exactly to `sinks`, and whose rows nearly to `sources`.

    Source:
        Cuturi, NeurIPS 2013 (arXiv 1306.0895).
    """
    present = (sources > 0)[:, :, None] & (sinks > 0)[:, None, :]
    apart = distances.masked_fill(~present, float("nan")).flatten(1).nanmedian(1).values
    unit = torch.where(apart > 0, apart, torch.ones_like(apart)).nan_to_num(1.0) * epsilon
    costs = -distances / unit[:, None, None]
    lowest = torch.finfo(distances.dtype).min
    log_sources, log_sinks = (shares.log().clamp(min=lowest) for shares in (sources, sinks))
    rows = torch.zeros_like(sources)
    columns = torch.zeros_like(sinks)
    for _ in range(iterations):
        rows = log_sources - (costs + columns[:, None, :]).masked_fill(~present, lowest).logsumexp(2)
        columns = log_sinks - (costs + rows[:, :, None]).masked_fill(~present, lowest).logsumexp(1)
    return (costs + rows[:, :, None] + columns[:, None, :]).exp().masked_fill(~present, 0.0)


def _shares(weights: Tensor, there: Tensor) -> Tensor:
    """What is positive of `(texts, tokens)`, with sum 1 in each text; all alike where nothing is."""
    positive = weights.clamp(min=0).masked_fill(~there, 0.0)
    total = positive.sum(1, keepdim=True)
    alike = there.to(weights.dtype) / there.sum(1, keepdim=True).clamp(min=1)
    return torch.where(total > 0, positive / total.clamp(min=torch.finfo(weights.dtype).tiny), alike)
