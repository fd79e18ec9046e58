"""Vectors of texts as they were when the student last read them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from raydistill.models.biencoder import Tower


class RememberedVectors(nn.Module):
    """A vector per text of either tower, by the text's fingerprint, in half precision.

    What a step sees is there only for later steps, so that a step may be taken again.

    Args:
        width: of a vector.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.towers = nn.ModuleDict({"query": _Table(width), "entity": _Table(width)})

    def recall(self, step: int, tower: Tower, keys: Tensor) -> tuple[Tensor, Tensor]:
        """What earlier steps saw of texts.

        Args:
            step: the one that asks.
            tower: which.
            keys: (texts,) int64, their fingerprints.

        Returns:
            (texts, width) float32, 0 where nothing is known; and (texts,) bool on the CPU, True = something is.
        """
        return self._table(tower).recall(step, keys)

    def remember(self, step: int, tower: Tower, keys: Tensor, vectors: Tensor) -> None:
        """Keep what a step sees, for later ones."""
        self._table(tower).pending = (step, keys, vectors)

    def _table(self, tower: Tower) -> _Table:
        table = self.towers[tower]
        assert isinstance(table, _Table)
        return table


class _Table(nn.Module):
    keys: Tensor
    vectors: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.empty(0, dtype=torch.int64))
        self.register_buffer("vectors", torch.empty(0, width, dtype=torch.float16))
        self.pending: tuple[int, Tensor, Tensor] | None = None
        self._rows: dict[int, int] = {}

    def recall(self, step: int, keys: Tensor) -> tuple[Tensor, Tensor]:
        if self.pending is not None and self.pending[0] != step:
            self._settle()
        rows = torch.tensor([self._rows.get(key, -1) for key in keys.tolist()])
        known = rows >= 0
        found = torch.zeros(len(keys), self.vectors.shape[1], device=self.vectors.device)
        found[known] = self.vectors[rows[known]].float()
        return found, known

    def _settle(self) -> None:
        """Write what the last step saw."""
        assert self.pending is not None
        _, keys, vectors = self.pending
        self.pending = None
        fresh = [key for key in dict.fromkeys(keys.tolist()) if key not in self._rows]
        self._rows.update(zip(fresh, range(len(self._rows), len(self._rows) + len(fresh)), strict=True))
        if fresh:
            self.keys = torch.cat([self.keys, torch.tensor(fresh, device=self.keys.device)])
            self.vectors = torch.cat([self.vectors, self.vectors.new_zeros(len(fresh), self.vectors.shape[1])])
        rows = torch.tensor([self._rows[key] for key in keys.tolist()])
        self.vectors[rows] = vectors.to(self.vectors)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """With what is pending: who asks for the state does not take the last step again."""
        if self.pending is not None:
            self._settle()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Whatever the number of rows."""
        self.keys = state_dict[f"{prefix}keys"].to(self.keys.device)
        self.vectors = state_dict[f"{prefix}vectors"].to(self.vectors.device)
        self._rows = {key: row for row, key in enumerate(self.keys.tolist())}
        self.pending = None
