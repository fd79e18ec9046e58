"""A student that starts wide and is pruned a few units at a time while it learns: scored, masked, and made small in the end (HomoDistil)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.errors import CapabilityError
from raydistill.models.biencoder import BiEncoder
from raydistill.models.masked_norm import MaskedLayerNorm
from raydistill.students.compaction import compact
from raydistill.students.keep_ratio import KeepSchedule, proportional
from raydistill.students.reshaping import Across, StructureChange
from raydistill.students.units import (
    INTERMEDIATE,
    QUERIES,
    VALUES,
    WIDTH,
    Masks,
    Part,
    importance,
    intermediate_of,
    most_important,
    parts_of,
    whole_masks,
    zero_pruned_,
)

MASK, KEPT = "mask", "kept"


class Pruning:
    """A `Reshaper` that brings a student to a width and a number of intermediate units; the heads stay, each narrower.

    As long as units go, a pruned unit's weights are zero and LayerNorm does not see it, so that the student is the narrow one already; when all that were to go
    have gone, the parameters are made small.

    Args:
        width: of the residual stream in the end.
        intermediate: units of each feed-forward layer in the end; None = as the width, in proportion.
        schedule: how many are left at each step.

    Source:
        HomoDistil (Liang et al., ICLR 2023, arXiv 2302.09632). What is pruned together is ours: see `units`.
    """

    name = "pruning"

    def __init__(self, width: int, intermediate: int | None, schedule: KeepSchedule) -> None:
        self.width, self.intermediate, self.schedule = width, intermediate, schedule
        self.complete = False
        self._parts: tuple[Part, ...] = ()
        self._heads = 1
        self._sizes, self._counts, self._finally = dict[str, int](), dict[str, int](), dict[str, int]()
        self._masks, self._next = Masks(), Masks()
        self._kept = dict[str, Tensor]()

    def prepare(self, student: BiEncoder) -> None:
        """Count its units, and put in LayerNorms that can leave some out.

        Raises:
            CapabilityError: it cannot be brought to these sizes.
        """
        self.intermediate = _final_intermediate(student, self.width, self.intermediate)
        for module in list(student.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.LayerNorm):
                    setattr(module, name, MaskedLayerNorm(child))
        self._heads, self._parts = student.num_heads, parts_of(student)
        self._masks = whole_masks(self._parts)
        self._sizes = {units: len(mask) for units, mask in self._masks.items()}
        self._counts = self._sizes
        self._finally = {
            units: self.intermediate if _kind(units) == INTERMEDIATE else self.width for units in self._masks
        }

    def after_backward(self, student: BiEncoder, step: int, across: Across) -> None:
        """Where some units are to go in this step, find out which the loss would feel least."""
        wanted, self._next = self._wanted(step + 1), Masks()
        if self.complete or wanted == self._counts:
            return
        scores = importance(self._parts)
        # Equal on all workers but for the last bits, where machines differ; and a unit must not stay with one and go with another.
        flat = across(torch.cat(list(scores.values())))
        for units, own in zip(scores, torch.split(flat, [len(one) for one in scores.values()]), strict=True):
            self._next[units] = most_important(own, self._masks[units], wanted[units], self._groups(units))
        self._counts = wanted

    def after_step(self, student: BiEncoder, step: int) -> StructureChange | None:
        """Let them go; and make the student small when all have gone that were to go."""
        if self.complete:
            return None
        self._mask(student)
        if self._counts != self._finally:
            return None
        self._kept = {units: mask.nonzero().flatten() for units, mask in self._masks.items()}
        return self._compact(student)

    def record(self) -> dict[str, Any]:
        """The sizes asked for, and of each kind of units how many there are now: in all layers equally many."""
        if self.complete:
            units = {_kind(name): len(kept) for name, kept in self._kept.items()}
        else:
            units = {_kind(name): int(mask.sum()) for name, mask in self._masks.items()}
        return {"width": self.width, "intermediate": self.intermediate, "units": units, "compacted": self.complete}

    def tensors(self) -> dict[str, Tensor]:
        """Which units are left: the masks, or once the student is small the positions that they had."""
        what, found = (KEPT, self._kept) if self.complete else (MASK, self._masks)
        return {f"{what}.{units}": one.to("cpu").contiguous() for units, one in found.items()}

    def restore(
        self, student: BiEncoder, record: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> StructureChange | None:
        """Leave out of a prepared student what was left out; its weights are loaded afterwards."""
        what, device = KEPT if record["compacted"] else MASK, student.log_inverse_temperature.device
        found = {units: tensors[f"{what}.{units}"].to(device) for units in self._masks}
        if record["compacted"]:
            self._kept = found
            return self._compact(student)
        self._next, self._counts = found, {units: int(mask.sum()) for units, mask in found.items()}
        self._mask(student)
        return None

    def _groups(self, units: str) -> int:
        return self._heads if _kind(units) in (QUERIES, VALUES) else 1

    def _wanted(self, taken: int) -> dict[str, int]:
        """Units that are to be there after so many steps; in each head equally many."""
        found = {}
        for units, size in self._sizes.items():
            groups = self._groups(units)
            found[units] = groups * self.schedule.kept(size // groups, self._finally[units] // groups, taken)
        return found

    def _mask(self, student: BiEncoder) -> None:
        """Take up what was decided last, and hold what is pruned at zero: the optimizer moves it on."""
        gone = [units for units, count in self._counts.items() if count < self._sizes[units]]
        if self._next and WIDTH in gone:
            for module in student.modules():
                if isinstance(module, MaskedLayerNorm):
                    module.keep(self._next[WIDTH])
        self._masks, self._next = {**self._masks, **self._next}, Masks()
        zero_pruned_(self._parts, {units: self._masks[units] for units in gone})

    def _compact(self, student: BiEncoder) -> StructureChange:
        self.complete = True
        return compact(student, self._parts, self._kept)


def _kind(units: str) -> str:
    return units.rpartition(".")[2]


def _final_intermediate(student: BiEncoder, width: int, intermediate: int | None) -> int:
    """The number of intermediate units in the end.

    Raises:
        CapabilityError: the student cannot be brought to these sizes.
    """
    whole, heads = student.hidden_size, student.num_heads
    there = intermediate_of(student)
    final = proportional(there, width, whole) if intermediate is None else intermediate
    if width > whole or width % heads or final > there:
        raise CapabilityError(
            f"a student of {whole} units, {heads} heads and {there} intermediate units, to be pruned to {width} and {final}",
            expected=f"a multiple of {heads} up to {whole}, and up to {there} intermediate units",
            consequence="heads would be of unequal width, or units would have to be added",
            remedy=f"set method.width to {max(heads, min(width, whole) // heads * heads)}, and method.intermediate to at most {there}",
        )
    return final
