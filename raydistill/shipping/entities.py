"""The vectors of all entities, as numbers of four bytes or of one: on a large graph they take more memory than the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from raydistill.students.quantizers import FLOAT, codes_of, require_entity_bits

_BYTE = 8
_ROWS_AT_ONCE = 2048
"""Entities whose codes are turned into numbers at a time: bounds the memory beside them, and stays in a processor's cache."""


@dataclass(frozen=True, eq=False)
class EntityVectors:
    """Vectors of all entities, to be scored against queries.

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
        require_entity_bits(bits)
        if bits == FLOAT:
            return cls(vectors)
        codes, scale = codes_of(vectors, bits, by_row=True)
        return cls(codes.to(torch.int8), scale)

    @classmethod
    def gathered(cls, parts: Iterable[Tensor], place: Tensor, bits: int = FLOAT) -> EntityVectors:
        """Keep vectors that come part by part, so that all of them are never there in float32.

        Args:
            parts: of the vectors of all distinct texts, each `(some, hidden)` float32.
            place: `(entities,)` int64, which of these each entity has.
            bits: 8 or 32.

        Raises:
            CapabilityError: other bits.
        """
        require_entity_bits(bits)
        kept = [cls.of(part, bits) for part in parts]
        codes = torch.cat([one.codes for one in kept])
        place = place.to(codes.device)
        scales = [one.scale for one in kept if one.scale is not None]
        return cls(codes[place], torch.cat(scales)[place] if scales else None)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> EntityVectors:
        """The counterpart of `tensors`."""
        return cls(tensors["vectors"], tensors.get("scale"))

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        return {"vectors": self.codes} | ({} if self.scale is None else {"scale": self.scale})

    def __len__(self) -> int:
        return len(self.codes)

    def to(self, device: torch.device) -> EntityVectors:
        """The same on another device."""
        return EntityVectors(self.codes.to(device), None if self.scale is None else self.scale.to(device))

    @property
    def bits(self) -> int:
        """Of each number: 8, or 32 for float32."""
        return FLOAT if self.scale is None else _BYTE

    def numbers(self, entities: Tensor) -> Tensor:
        """The vectors of some entities `(some,)` int64, `(some, hidden)` float32, as they are scored."""
        entities = entities.to(self.codes.device)
        if self.scale is None:
            return self.codes[entities]
        return self.codes[entities] * self.scale[entities].unsqueeze(1)

    def followed_by(self, others: EntityVectors) -> EntityVectors:
        """These, and after them others that are kept in as many bits."""
        assert self.bits == others.bits, "vectors of different bits share no table"
        codes = torch.cat([self.codes, others.codes.to(self.codes.device)])
        if self.scale is None or others.scale is None:
            return EntityVectors(codes)
        return EntityVectors(codes, torch.cat([self.scale, others.scale.to(self.scale.device)]))

    def scores(self, queries: Tensor) -> Tensor:
        """Inner products with queries `(queries, hidden)`, `(queries, entities)` float32.

        Codes become numbers once for all queries, part by part: for a single query that takes longer than its products do.
        """
        if self.scale is None:
            return queries @ self.codes.T
        products = torch.empty(len(queries), len(self), device=queries.device)
        # One buffer for all parts: new memory for each would cost ten times what the products do.
        numbers = torch.empty(_ROWS_AT_ONCE, self.codes.shape[1], device=queries.device)
        for codes, part in zip(_parts(self.codes), _parts(products.T), strict=True):
            part.copy_((queries @ numbers[: len(codes)].copy_(codes).T).T)
        return products.mul_(self.scale)


def _parts(rows: Tensor) -> list[Tensor]:
    return [rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE)]
