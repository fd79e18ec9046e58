"""How much of a student that is pruned on the way is still there: all at first, then ever less, fast in the beginning and slowly in the end."""

from __future__ import annotations

from dataclasses import dataclass


def proportional(units: int, width: int, whole: int) -> int:
    """What is left of so many units of a model `whole` wide when it becomes `width` wide."""
    return round(width * units / whole)


@dataclass(frozen=True)
class KeepSchedule:
    """The cubic fall of the keep ratio.

        r(t) = 1 before `first`;  r_f + (1 - r_f) (1 - (t - first) / (last - first))^3 up to `last`;  r_f from there on

    Args:
        first: steps taken when pruning begins.
        last: steps taken when it is over; equal to `first` = all at once.

    Source:
        HomoDistil (Liang et al., ICLR 2023, arXiv 2302.09632), known to us from a secondary source; the cubic form is that of Zhu and Gupta 2017.
    """

    first: int
    last: int

    @classmethod
    def over(cls, steps: int, begin: float, end: float) -> KeepSchedule:
        """From one share of so many steps to another."""
        return cls(round(begin * steps), round(end * steps))

    def kept(self, whole: int, final: int, taken: int) -> int:
        """Units that are there after `taken` steps, of `whole` at first and `final` in the end; never more than before."""
        if taken >= self.last:
            return final
        if taken < self.first:
            return whole
        left = 1 - (taken - self.first) / (self.last - self.first)
        return round(final + (whole - final) * left**3)
