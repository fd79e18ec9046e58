"""A teacher's outputs for the training texts, computed once instead of once per epoch, kept on disk and shared by all trials of a grade, or in memory.

The teacher is frozen, so nothing but time changes where it sees the texts as they are. Where it sees corrupted ones, there is a fixed number of
corruptions of each text, taken in turns epoch by epoch, and its outputs for each of them are kept.

Texts are encoded in one fixed order and in fixed parts, so that an output does not depend on where in the epochs a text turns up first, nor on who
computed it: a resumed trial gets the same bits. Where they are kept on disk every part is a file (`shards.py`), which whoever comes first computes: the workers of a trial, and
trials that run at the same time, share the work without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raydistill.data.texts import Texts, fingerprints
from raydistill.devices import sent
from raydistill.errors import StorageError
from raydistill.models.biencoder import Tower
from raydistill.models.features import QKV, Feature, Needs, TowerOutput, columns_of
from raydistill.teachers.shards import Shard, claimed, read_shard, write_shard
from raydistill.teachers.tables import Table
from raydistill.teachers.views import AskedAboutAll, BeforePart, LiveTeacher, Stop, never

TEXTS_OF_A_SHARD = 8192
SIDES: tuple[Tower, Tower] = ("query", "entity")


class _StoppedError(Exception):
    """Nobody waits any more for what was being computed."""


@dataclass(frozen=True)
class KeptView:
    """What is kept of a teacher on one view.

    Args:
        view_of: the texts as an epoch (from 0) sees them.
        folder_of: where an epoch's files lie: equal folders have equal contents; None = in memory.
        turn: which of several contents an epoch has; None = all epochs see the same.
        features: which states are kept beside the vectors.
        whole: whether those of all tokens are, instead of those of masked ones.
        texts_at_once: in a part; None = as many as in a file.
    """

    view_of: Callable[[Texts, int], Texts]
    folder_of: Callable[[int], Path] | None = None
    turn: Callable[[int], int] | None = None
    features: tuple[Feature, ...] = ()
    whole: bool = False
    texts_at_once: int | None = None


class CachedTeacher(AskedAboutAll):
    """Answers from what is kept where all of it is there; else asks the live teacher.

    Args:
        live: the teacher.
        texts: puts all distinct training queries together, and all distinct training candidates, as they are. It is asked when an epoch needs them; where no
            later epoch can, they are let go then, because those of a large graph take gigabytes.
        views: what is kept.
        mask_id: what stands at masked tokens.
        first: which part to look at first, so that workers begin with different ones.
    """

    def __init__(
        self,
        live: LiveTeacher,
        texts: Callable[[], tuple[Texts, Texts]],
        views: Sequence[KeptView],
        mask_id: int,
        first: int = 0,
    ) -> None:
        self.live, self.first, self.other_inverse_temperatures = live, first, live.other_inverse_temperatures
        self.inverse_temperature, self.num_layers = live.inverse_temperature, live.num_layers
        self._texts, self._parts = texts, dict[tuple[Tower, int], list[Texts]]()
        self._views = [_View(kept, mask_id) for kept in views]

    def at_epoch(self, epoch: int, stop: Stop = never) -> bool:
        """Have the outputs for what an epoch sees ready; what was written to files before `stop` said so stays, and is found next time."""

        def look(_: int) -> None:
            if stop():
                raise _StoppedError

        try:
            for view in self._views:
                if not view.is_at(epoch):
                    view.turn_to(epoch, {side: Table(self._shards(view, side, epoch, look)) for side in SIDES})
        except _StoppedError:
            return False
        if all(view.kept.turn is None for view in self._views):
            self._parts.clear()
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
        parts = self._parts_of(tower, view.texts_at_once)

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

    def _parts_of(self, tower: Tower, size: int) -> list[Texts]:
        """The texts of a side, so many at a time."""
        if not self._parts:
            sizes = {view.texts_at_once for view in self._views}
            sides = zip(SIDES, self._texts(), strict=True)
            self._parts = {(side, each): _in_parts(texts, each) for side, texts in sides for each in sizes}
        return self._parts[tower, size]

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
        self.texts_at_once = kept.texts_at_once or TEXTS_OF_A_SHARD
        self._tables: dict[Tower, Table] = {}
        self._at: Path | int | None = None

    def is_at(self, epoch: int) -> bool:
        """Whether its tables are those of an epoch."""
        return self._at == self._place(epoch)

    def turn_to(self, epoch: int, tables: dict[Tower, Table]) -> None:
        """Take the tables of an epoch."""
        self._at, self._tables = self._place(epoch), tables

    def _place(self, epoch: int) -> Path | int:
        if self.kept.folder_of is not None:
            return self.kept.folder_of(epoch)
        return 0 if self.kept.turn is None else self.kept.turn(epoch)

    def find(self, texts: Texts, tower: Tower, needs: Needs, device: torch.device) -> TowerOutput | None:
        """What is kept for some texts; None where something is missing."""
        if not needs.layers <= set(self.kept.features) or (needs.layers and not (needs.masked_only or self.kept.whole)):
            return None
        table = self._tables.get(tower)
        rows = None if table is None else table.rows(fingerprints(texts))
        if table is None or rows is None:
            return None
        vectors, states = sent(torch.from_numpy(table.vectors(rows)), device), {}
        if needs.layers:
            found = self._in_place(texts, sent(torch.from_numpy(table.states(rows)), device))
            for feature, columns in columns_of(self.kept.features).items():
                if feature in needs.layers:
                    states[feature] = found[:, columns] if isinstance(feature, QKV) else found[:, columns.start]
        return TowerOutput(vectors, states)

    def computed(self, live: LiveTeacher, tower: Tower, part: Texts, look: BeforePart) -> Shard:
        """The teacher's outputs for some texts of this view."""
        # Afresh, because a part may last as long as the trial, and its copy on a GPU would.
        texts, features = part.select(torch.argsort(fingerprints(part), stable=True)).afresh(), self.kept.features
        output = live.encode(texts, tower, Needs(frozenset(features)), look)
        counts = torch.zeros(len(texts), dtype=torch.int64)
        states = output.vectors.new_zeros(0, 0, output.vectors.shape[1])
        if features:
            kept = self._kept(texts)
            counts.index_add_(0, texts.text_of_token, kept.long())
            apart = [output.states[feature].view(len(kept), -1, output.vectors.shape[1]) for feature in features]
            states = torch.cat([one[kept.to(live.device)] for one in apart], dim=1)
        return Shard(
            fingerprints(texts).numpy(),
            output.vectors.float().cpu().numpy(),
            np.concatenate([[0], np.cumsum(counts.numpy())]).astype(np.int64),
            states.float().cpu().numpy(),
        )

    def _in_place(self, texts: Texts, states: Tensor) -> Tensor:
        """The states of kept tokens, each where its token stands, `(tokens, columns, hidden)`; zeros elsewhere."""
        if self.kept.whole:
            return states
        kept = sent(self._kept(texts).nonzero().squeeze(1), states.device)
        return states.new_zeros(len(texts.tokens), *states.shape[1:]).index_copy(0, kept, states)

    def _kept(self, texts: Texts) -> Tensor:
        """Which tokens' states are kept."""
        if self.kept.whole:
            return torch.ones(len(texts.tokens), dtype=torch.bool)
        return (texts.tokens == self.mask_id) & ~texts.special


def _in_parts(texts: Texts, size: int) -> list[Texts]:
    order = torch.argsort(fingerprints(texts), stable=True)
    return [texts.select(part) for part in torch.split(order, size)]
