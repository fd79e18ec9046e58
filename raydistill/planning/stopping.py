"""Stopping poor trials early: asynchronous successive halving as a pure fold over reports.

1. Rungs stand at `grace · factor^k` epochs, below a trial's last epoch.
2. A trial that reaches a rung is compared with those that reached it before: below their `1 - 1/factor` quantile it stops.
3. Its value is then written on the rung, whether it stopped or not.

The order of reports is the order of the ledger, so that decisions survive a restart by being computed again.

Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020, arXiv 1810.05934, in the stopping variant, which
Ray Tune's ASHAScheduler uses too. Difference: the last epoch of a trial is no rung, since nothing is left to save there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from raydistill.planning.records import MRR
from raydistill.planning.state import CampaignState


class Halving:
    """The rungs of one grade.

    Args:
        grace: epochs every trial gets.
        factor: of `factor` trials that reach a rung, about one goes on.
        epochs: epochs of a trial that runs to its end.
    """

    def __init__(self, grace: int, factor: int, epochs: int) -> None:
        milestones = []
        milestone = grace
        while milestone < epochs:
            milestones.append(milestone)
            milestone *= factor
        self.factor = factor
        self.rungs: list[tuple[int, dict[int, float]]] = [(milestone, {}) for milestone in reversed(milestones)]

    def observe(self, trial: int, epoch: int, value: float | None) -> bool:
        """Take note of a report and say whether its trial should stop.

        Args:
            trial: number of the trial.
            epoch: completed epochs.
            value: validation MRR; None or a non-number when the epoch was not validated, which decides nothing.
        """
        if value is None or not math.isfinite(value):
            return False
        for milestone, recorded in self.rungs:
            if epoch < milestone or trial in recorded:
                continue
            stop = bool(recorded) and value < _quantile(list(recorded.values()), 1 - 1 / self.factor)
            recorded[trial] = value
            return stop
        return False


def rebuilt(halving: Halving, state: CampaignState, lineage: str, grade: int) -> Halving:
    """Write every report of a grade onto the rungs, in the order of the ledger; but for work that was done elsewhere, which raced nobody here."""
    records = [record for record in state.of(lineage, grade) if not record.reused_from and not record.taken]
    reports = [(report["event"], record.number, report) for record in records for report in record.reports]
    reports.sort(key=lambda one: one[0])
    for _, number, report in reports:
        halving.observe(number, report["epoch"], report["metrics"].get(MRR))
    return halving


def _quantile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between the two nearest values, as numpy's default."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
