"""The vectors of all entities, as numbers of four bytes or of one: on a large graph they take more memory than the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from raydistill.errors import CapabilityError
from raydistill.students.quantizers import FLOAT, codes_of

ENTITY_BITS = (8, FLOAT)
"""Bits of a number that entity vectors may be kept in."""
_ROWS_AT_ONCE = 2048
"""Codes turned into numbers at a time: bounds the memory beside them, and stays in a processor's cache."""


@dataclass(frozen=True, eq=False)
class EntityVectors:
    """Vectors of all entities, to be scored against one query after another.

    Attributes:
        codes: `(entities, hidden)`, the float32 vectors themselves, or whole numbers from -127 to 127 in int8.
        scale: `(entities,)` float32, what the codes of each entity are multiplied by; None = `codes` are the vectors.
    """

    codes: Tensor
    scale: Tensor | None = None

    @classmethod
    def of(cls, vectors: Tensor, bits: int = FLOAT) -> EntityVectors:
        """Keep vectors, `(entities, hidden)` float32; in 8 bits each entity has levels of its own, up to its largest magnitude.

        Raises:
            CapabilityError: other than 8 or 32 bits.
        """
        if bits == FLOAT:
            return cls(vectors)
        if bits not in ENTITY_BITS:
            raise CapabilityError(
                f"entity vectors in {bits} bits",
                expected=f"one of {', '.join(map(str, ENTITY_BITS))}",
                consequence="codes would not fit the bytes they are kept in",
                remedy="choose 8, or leave the vectors as they are",
            )
        parts = [codes_of(part, bits, by_row=True) for part in _parts(vectors)]
        return cls(torch.cat([codes.to(torch.int8) for codes, _ in parts]), torch.cat([scale for _, scale in parts]))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> EntityVectors:
        """The counterpart of `tensors`."""
        return cls(tensors["vectors"], tensors.get("scale"))

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        return {"vectors": self.codes} | ({} if self.scale is None else {"scale": self.scale})

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def bytes(self) -> int:
        """What they take."""
        return sum(one.numel() * one.element_size() for one in self.tensors().values())

    def to(self, device: torch.device) -> EntityVectors:
        """The same on another device."""
        return EntityVectors(self.codes.to(device), None if self.scale is None else self.scale.to(device))

    def scores(self, query: Tensor) -> Tensor:
        """Inner products with one query `(hidden,)`, `(entities,)` float32."""
        if self.scale is None:
            return self.codes @ query
        products = torch.empty(len(self), device=query.device)
        # One buffer for all parts: new memory for each would cost ten times what the products do.
        numbers = torch.empty(_ROWS_AT_ONCE, self.codes.shape[1], device=query.device)
        for codes, product in zip(_parts(self.codes), _parts(products), strict=True):
            torch.mv(numbers[: len(codes)].copy_(codes), query, out=product)
        return products * self.scale


def _parts(rows: Tensor) -> list[Tensor]:
    return [rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE)]
