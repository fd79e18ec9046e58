"""The softmax over the valid candidates of a row, in which other candidates do not exist."""

from __future__ import annotations

from torch import Tensor


def only_valid(tensor: Tensor, valid: Tensor) -> Tensor:
    """Return the tensor with 0 wherever `valid` is False, so that nothing there (even NaN) has any effect.

    Must come before any multiplication by something trainable: its gradient would otherwise contain 0 * inf = NaN.
    """
    return tensor.masked_fill(~valid, 0.0)


def valid_log_softmax(logits: Tensor, valid: Tensor) -> Tensor:
    """Return log-probabilities over the valid columns of each row.

    Entries that are not valid leave the sum as -inf, not as a large negative number: -1e4 is a legal logit in some
    number formats and would enter every mean. The result holds 0 there, so that products with it stay finite. A row
    without a valid entry is all 0 and has gradient 0.

    Args:
        logits: (rows, columns), float32 or float64.
        valid: (rows, columns) bool, True = takes part.

    Returns:
        (rows, columns), nats.
    """
    some_valid = valid.any(dim=1, keepdim=True)
    # An empty row keeps its zeros: a softmax over -inf alone is NaN, which torch's anomaly detection would report.
    logits = only_valid(logits, valid).masked_fill(~valid & some_valid, float("-inf"))
    return only_valid(logits.log_softmax(dim=1), valid)
