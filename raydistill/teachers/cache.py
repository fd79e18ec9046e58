"""A teacher's outputs for the training texts, computed once instead of once per epoch, kept on disk and shared by all trials of a grade.

The teacher is frozen, so nothing but time changes where it sees the texts as they are. Where it sees corrupted ones, there is a fixed number of
corruptions of each text, taken in turns epoch by epoch, and its outputs for each of them are kept.

Texts are encoded in one fixed order and in fixed parts, so that an output does not depend on where in the epochs a text turns up first, nor on who
computed it: a resumed trial gets the same bits. Every part is a file (`shards.py`), which whoever comes first computes: the workers of a trial, and
trials that run at the same time, share the work without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydistill.data.texts import Texts, fingerprints, runs
from raydistill.devices import sent
from raydistill.errors import StorageError
from raydistill.models.biencoder import Tower
from raydistill.models.features import Needs, TowerOutput
from raydistill.teachers.shards import Shard, claimed, read_shard, write_shard
from raydistill.teachers.views import AskedAboutAll, BeforePart, LiveTeacher, Stop, never

TEXTS_OF_A_SHARD = 8192


class _StoppedError(Exception):
    """Nobody waits any more for what was being computed."""


@dataclass(frozen=True)
class KeptView:
    """What is kept of a teacher on one view.

    Args:
        view_of: the texts as an epoch (from 0) sees them.
        folder_of: where an epoch's files lie: equal folders have equal contents; None = in memory.
        turn: which of several contents an epoch has, where there are no files.
        layers: whose states at masked tokens are kept beside the vectors.
    """

    view_of: Callable[[Texts, int], Texts]
    folder_of: Callable[[int], Path] | None = None
    turn: Callable[[int], int] = lambda epoch: 0
    layers: tuple[int, ...] = ()


class CachedTeacher(AskedAboutAll):
    """Answers from what is kept where all of it is there; else asks the live teacher.

    Args:
        live: the teacher.
        queries: all distinct training queries, as they are.
        candidates: all distinct training candidates, as they are.
        views: what is kept.
        mask_id: what stands at masked tokens.
        first: which part to look at first, so that workers begin with different ones.
    """

    def __init__(
        self,
        live: LiveTeacher,
        queries: Texts,
        candidates: Texts,
        views: Sequence[KeptView],
        mask_id: int,
        first: int = 0,
    ) -> None:
        self.live, self.first, self.other_inverse_temperatures = live, first, live.other_inverse_temperatures
        self.inverse_temperature, self.num_layers = live.inverse_temperature, live.num_layers
        sides: dict[Tower, Texts] = {"query": queries, "entity": candidates}
        self._parts = {tower: _in_parts(texts) for tower, texts in sides.items()}
        self._views = [_View(kept, mask_id) for kept in views]

    def at_epoch(self, epoch: int, stop: Stop = never) -> bool:
        """Have the outputs for what an epoch sees ready; what was written before `stop` said so stays, and is found next time."""

        def look(_: int) -> None:
            if stop():
                raise _StoppedError

        try:
            for view in self._views:
                if not view.is_at(epoch):
                    view.turn_to(epoch, {side: _Table(self._shards(view, side, epoch, look)) for side in self._parts})
        except _StoppedError:
            return False
        return self.live.at_epoch(epoch, stop)

    def encode(self, texts: Texts, tower: Tower, needs: Needs) -> TowerOutput:
        """The teacher's outputs for `texts`."""
        for view in self._views:
            output = view.find(texts, tower, needs, self.live.device)
            if output is not None:
                return output
        return self.live.encode(texts, tower, needs)

    def encode_at_most(self, tokens: int) -> None:
        """Make the live teacher's micro-batches smaller; what is kept stays."""
        self.live.encode_at_most(tokens)

    def _shards(self, view: _View, tower: Tower, epoch: int, look: BeforePart) -> list[Shard]:
        """Every part's outputs, computed where nobody has done so; `look` is called before every part and in between."""
        parts = self._parts[tower]

        def seen(number: int) -> Texts:
            return view.kept.view_of(parts[number], epoch)

        if view.kept.folder_of is None:
            return [view.computed(self.live, tower, seen(number), look) for number in range(len(parts))]
        folder, found = view.kept.folder_of(epoch), dict[int, Shard]()
        numbers = [(self.first + number) % len(parts) for number in range(len(parts))]
        # What another process is at is left for later, and then waited for.
        for wait in (False, True):
            for number in numbers:
                if number in found:
                    continue
                look(number)
                name = f"{tower}-{number:05d}.arrow"
                with claimed(folder / name, wait=wait, meanwhile=partial(look, number)) as path:
                    if path is not None:
                        found[number] = self._kept_file(view, path, tower, seen(number), look)
        return [found[number] for number in range(len(parts))]

    def _kept_file(self, view: _View, path: Path, tower: Tower, part: Texts, look: BeforePart) -> Shard:
        shard = read_shard(path)
        if shard is None or not np.array_equal(shard.fingerprints, np.sort(fingerprints(part).numpy())):
            write_shard(path, view.computed(self.live, tower, part, look))
            shard = read_shard(path)
        if shard is None:
            raise StorageError(
                f"{path} is not what was written into it just now",
                expected="a disk that keeps what is written",
                consequence="the student would learn from damaged outputs",
                remedy="look at the disk, or set training.remember_teacher to false",
            )
        return shard


class _View:
    """A kept view, and the tables of the epoch it stands at."""

    def __init__(self, kept: KeptView, mask_id: int) -> None:
        self.kept, self.mask_id = kept, mask_id
        self._tables: dict[Tower, _Table] = {}
        self._at: Path | int | None = None

    def is_at(self, epoch: int) -> bool:
        """Whether its tables are those of an epoch."""
        return self._at == self._place(epoch)

    def turn_to(self, epoch: int, tables: dict[Tower, _Table]) -> None:
        """Take the tables of an epoch."""
        self._at, self._tables = self._place(epoch), tables

    def _place(self, epoch: int) -> Path | int:
        return self.kept.turn(epoch) if self.kept.folder_of is None else self.kept.folder_of(epoch)

    def find(self, texts: Texts, tower: Tower, needs: Needs, device: torch.device) -> TowerOutput | None:
        """What is kept for some texts; None where something is missing."""
        if needs.layers and not (needs.masked_only and needs.layers <= set(self.kept.layers)):
            return None
        table = self._tables.get(tower)
        rows = None if table is None else table.rows(fingerprints(texts))
        if table is None or rows is None:
            return None
        vectors, states = sent(torch.from_numpy(table.vectors(rows)), device), {}
        if needs.layers:
            masked = sent(self._masked(texts).nonzero().squeeze(1), device)
            found = sent(torch.from_numpy(table.states(rows)), device)
            for layer in needs.layers:
                own = found[:, self.kept.layers.index(layer)]
                states[layer] = vectors.new_zeros(len(texts.tokens), vectors.shape[1]).index_copy(0, masked, own)
        return TowerOutput(vectors, states)

    def computed(self, live: LiveTeacher, tower: Tower, part: Texts, look: BeforePart) -> Shard:
        """The teacher's outputs for some texts of this view."""
        texts, layers = part.select(torch.argsort(fingerprints(part), stable=True)), self.kept.layers
        output = live.encode(texts, tower, Needs(frozenset(layers)), look)
        counts = torch.zeros(len(texts), dtype=torch.int64)
        states = output.vectors.new_zeros(0, 0, output.vectors.shape[1])
        if layers:
            masked = self._masked(texts)
            counts.index_add_(0, texts.text_of_token, masked.long())
            states = torch.stack([output.states[layer][masked.to(live.device)] for layer in layers], dim=1)
        return Shard(
            fingerprints(texts).numpy(),
            output.vectors.float().cpu().numpy(),
            np.concatenate([[0], np.cumsum(counts.numpy())]).astype(np.int64),
            states.float().cpu().numpy(),
        )

    def _masked(self, texts: Texts) -> Tensor:
        return (texts.tokens == self.mask_id) & ~texts.special


def _in_parts(texts: Texts) -> list[Texts]:
    order = torch.argsort(fingerprints(texts), stable=True)
    return [texts.select(part) for part in torch.split(order, TEXTS_OF_A_SHARD)]


class _Table:
    """Shards as one table."""

    def __init__(self, shards: list[Shard]) -> None:
        self.shards = shards
        keys = np.concatenate([shard.fingerprints for shard in shards])
        self.order = np.argsort(keys, kind="stable")
        self.keys = keys[self.order]
        self.first = np.cumsum([0, *(len(shard.fingerprints) for shard in shards)])

    def rows(self, keys: Tensor) -> NDArray[np.int64] | None:
        """Where texts stand; None where one is missing."""
        wanted = keys.numpy()
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        if not len(self.keys) or not np.array_equal(self.keys[place], wanted):
            return None
        return self.order[place]

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """`(texts, hidden)`."""
        found = np.empty((len(rows), self.shards[0].vectors.shape[1]), np.float32)
        for shard, here, local in self._by_shard(rows):
            found[here] = shard.vectors[local]
        return found

    def states(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of the masked tokens of texts, one text after another, `(masked tokens, layers, hidden)`."""
        counts = np.zeros(len(rows), np.int64)
        for shard, here, local in self._by_shard(rows):
            counts[here] = shard.offsets[local + 1] - shard.offsets[local]
        starts = np.cumsum(counts) - counts
        found = np.empty((int(counts.sum()), *self.shards[0].states.shape[1:]), np.float32)
        for shard, here, local in self._by_shard(rows):
            source = runs(shard.offsets[local], counts[here])
            found[runs(starts[here], counts[here])] = shard.states[source]
        return found

    def _by_shard(self, rows: NDArray[np.int64]) -> Iterator[tuple[Shard, NDArray[np.int64], NDArray[np.int64]]]:
        owners = np.searchsorted(self.first, rows, side="right") - 1
        for number in np.unique(owners):
            here = np.flatnonzero(owners == number)
            yield self.shards[number], here, rows[here] - self.first[number]
