"""Vectors of texts as they were when the student read them in the epoch before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from raydistill.models.biencoder import Tower


class RememberedVectors(nn.Module):
    """A vector per text of either tower, by the text's fingerprint, in half precision: what an epoch sees is there in the next one.

    So a step never sees what it wrote itself, and may be taken again.

    Args:
        width: of a vector.
    """

    epoch: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("epoch", torch.tensor(0))
        self.before, self.now = self._nothing(), self._nothing()

    def turn_to(self, epoch: int) -> None:
        """Hear which epoch (from 0) it is, before anything is recalled in it."""
        if epoch != int(self.epoch):
            device = self.epoch.device
            self.before, self.now = self.now, self._nothing().to(device)
            self.epoch = torch.tensor(epoch, device=device)

    def recall(self, tower: Tower, keys: Tensor) -> tuple[Tensor, Tensor]:
        """What the epoch before saw of texts.

        Args:
            tower: which.
            keys: (texts,) int64, their fingerprints.

        Returns:
            (texts, width) float32, 0 where nothing is known; and (texts,) bool on the CPU, True = something is.
        """
        return _table(self.before, tower).read(keys)

    def remember(self, tower: Tower, keys: Tensor, vectors: Tensor) -> None:
        """Keep what this epoch sees of texts; each of them once, and the last time counts."""
        _table(self.now, tower).write(keys, vectors)

    def _nothing(self) -> nn.ModuleDict:
        return nn.ModuleDict({"query": _Table(self.width), "entity": _Table(self.width)})


def _table(generation: nn.ModuleDict, tower: Tower) -> _Table:
    table = generation[tower]
    assert isinstance(table, _Table)
    return table


class _Table(nn.Module):
    """Rows by key; its tensors have room for more rows than there are."""

    keys: Tensor
    vectors: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.empty(0, dtype=torch.int64))
        self.register_buffer("vectors", torch.empty(0, width, dtype=torch.float16))
        self._rows: dict[int, int] = {}

    def read(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.tensor([self._rows.get(key, -1) for key in keys.tolist()], dtype=torch.int64)
        known = rows >= 0
        found = torch.zeros(len(keys), self.vectors.shape[1], device=self.vectors.device)
        places = known.nonzero().flatten().to(found.device)
        return found.index_copy(0, places, self.vectors[rows[known].to(found.device)].float()), known

    def write(self, keys: Tensor, vectors: Tensor) -> None:
        fresh = [key for key in dict.fromkeys(keys.tolist()) if key not in self._rows]
        count = len(self._rows)
        # Before anything is known of the new rows: what does not fit into memory is written again.
        self._make_room(count + len(fresh))
        self._rows.update(zip(fresh, range(count, count + len(fresh)), strict=True))
        # Of equal texts one alone is written: which of two writes to a row stays, nothing promises.
        last = {key: place for place, key in enumerate(keys.tolist())}
        places = torch.tensor(list(last.values()), dtype=torch.int64)
        rows = torch.tensor([self._rows[key] for key in last], dtype=torch.int64, device=self.keys.device)
        self.keys[rows] = keys[places.to(keys.device)].to(self.keys)
        self.vectors[rows] = vectors[places.to(vectors.device)].to(self.vectors)

    def _make_room(self, count: int) -> None:
        if count > len(self.keys):
            more = max(count, 2 * len(self.keys)) - len(self.keys)
            keys = torch.cat([self.keys, self.keys.new_zeros(more)])
            vectors = torch.cat([self.vectors, self.vectors.new_zeros(more, self.vectors.shape[1])])
            self.keys, self.vectors = keys, vectors

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Only the rows that there are."""
        destination[f"{prefix}keys"] = self.keys[: len(self._rows)]
        destination[f"{prefix}vectors"] = self.vectors[: len(self._rows)]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Whatever the number of rows."""
        self.keys = state_dict[f"{prefix}keys"].to(self.keys.device)
        self.vectors = state_dict[f"{prefix}vectors"].to(self.vectors.device)
        self._rows = {key: row for row, key in enumerate(self.keys.tolist())}
