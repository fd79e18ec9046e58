"""Which masking of a grade changes anything under its method."""

from __future__ import annotations

from raydistill.config.methods import Method, masks_itself, sees_masks
from raydistill.config.space import View


def applied_masking(method: Method, mask_ratio: float, view: View) -> tuple[float, View]:
    """The mask ratio and view that change anything: where no term looks at masked texts nothing is masked, and then the views are one.

    So two points of a search that ask for the same work are the same trial, and reports name no ratio that was never applied.
    """
    if mask_ratio == 0 or masks_itself(method) or (view == "separate" and not sees_masks(method)):
        return 0.0, "separate"
    return mask_ratio, view
