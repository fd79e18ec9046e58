"""Where a trial's teacher outputs come from: nobody, the teacher itself, or what is kept of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.data.batches import BatchBuilder
from raydistill.data.groups import GroupSource
from raydistill.data.texts import Texts
from raydistill.devices import best_device, tokens_at_once
from raydistill.models.biencoder import BiEncoder, Precision
from raydistill.models.features import Feature, Needs, columns_of, in_order
from raydistill.teachers.cache import CachedTeacher, KeptView
from raydistill.teachers.several import SeveralTeachers, TeachersOfParts
from raydistill.teachers.shards import KeptTeachers
from raydistill.teachers.structural import OtherTeacher, StructuralModel, StructuralTeacher
from raydistill.teachers.views import LiveTeacher, NoTeacher, TeacherSource
from raydistill.training.outputs import either
from raydistill.training.terms.term import wanted_on
from raydistill.training.trainer import Trainer

MIB, MIB_AT_ONCE = 2**20, 64
"""How much of a teacher's states is computed at once, beside what is kept of them already: a few times as much is held on the way."""


def teacher_source(
    config: TrialConfig,
    model: BiEncoder | None,
    trainer: Trainer,
    kept: KeptTeachers | None,
    others: Sequence[OtherTeacher] = (),
) -> TeacherSource:
    """The source for a trial's trainer.

    Args:
        config: the trial, with the teacher of the moment.
        model: that teacher; None where nothing of the trial looks at one.
        trainer: its terms say what is asked for, its corruption what the texts look like, and its source what each teacher is asked about.
        kept: where outputs are kept, which turns to these teachers; None = in memory.
        others: who teaches beside it; where batches are of one part of the graph each, they have a part each, and it teaches nothing.
    """
    source = trainer.source
    if others and isinstance(source, GroupSource):
        parts = [_Asked(source.triples_of(number), (number, len(others))) for number in range(len(others))]
        teachers = _sources(config, trainer, kept, config.others, others, parts)
        return TeachersOfParts(teachers, lambda batch: source.group_of(batch.relations))
    if model is None:
        return NoTeacher()
    assert config.teacher is not None
    references, models = (config.teacher, *config.others), (model, *others)
    asked = [_Asked(source.triples), *(_Asked(source.triples, vectors_alone=True) for _ in others)]
    sources = _sources(config, trainer, kept, references, models, asked)
    return SeveralTeachers(sources[0], sources[1:]) if others else sources[0]


@dataclass(frozen=True, eq=False)
class _Asked:
    """What a teacher is asked about.

    Args:
        triples: examples whose texts come again; None = none do.
        part: the part of the graph they are, from 0, and of how many; None = all.
        vectors_alone: whether it is asked as one of the others, for vectors, and that by terms that want the others.
    """

    triples: NDArray[np.int32] | None
    part: tuple[int, int] | None = None
    vectors_alone: bool = False


@dataclass(frozen=True)
class _Kept:
    """Whose outputs are kept, of which part of the graph, and where; no folder = in memory."""

    teacher: str
    part: tuple[int, int] | None
    folder: Path | None


def _sources(
    config: TrialConfig,
    trainer: Trainer,
    kept: KeptTeachers | None,
    references: Sequence[TeacherReference],
    models: Sequence[OtherTeacher],
    asked: Sequence[_Asked],
) -> list[TeacherSource]:
    """The teachers of a trial, each by itself."""
    remembers = config.training.remember_teacher and trainer.source.triples is not None
    digests = [one.digest for one in references]
    folders = kept.folders(digests) if kept is not None and remembers else [None for _ in digests]
    return [
        _source(config, model, trainer, _Kept(digest, one.part, folder), one)
        for digest, folder, model, one in zip(digests, folders, models, asked, strict=True)
    ]


def _source(config: TrialConfig, model: OtherTeacher, trainer: Trainer, kept: _Kept, asked: _Asked) -> TeacherSource:
    """One teacher, live or kept."""
    if isinstance(model, StructuralModel):
        return StructuralTeacher(model)
    live, triples = LiveTeacher(model), asked.triples
    if not config.training.remember_teacher or triples is None:
        return live
    wanted = [wanted_on(trainer.terms, view).teacher for view in ("clean", "corrupted")]
    if asked.vectors_alone:
        wanted = [Needs() if needs is not None and needs.others else None for needs in wanted]
    room = _Room(config.training.remember_states * MIB, live, trainer.builder, triples)
    views = _views(config, trainer, kept, room, *wanted)
    if not views:
        return live
    return CachedTeacher(live, room.texts, views, trainer.corruption.mask_id, trainer.world.rank)


@dataclass(frozen=True)
class _Room:
    """How much of a teacher's states of all training texts is kept: in memory alone, because on disk they would outlive the trial, and next to a processor alone.

    Args:
        limit: bytes.
        teacher: whose states they are.
        builder: puts the texts together.
        triples: whose texts they are.
        counted: all of them, once they were put together to be counted, until somebody takes them.
    """

    limit: int
    teacher: LiveTeacher
    builder: BatchBuilder
    triples: NDArray[np.int32]
    counted: list[tuple[Texts, Texts]] = field(default_factory=list)

    def texts(self) -> tuple[Texts, Texts]:
        """All training texts. To put them together takes a while, and gigabytes where there are many, so they are not kept here."""
        return self.counted.pop() if self.counted else self.builder.all_texts(self.triples)

    def view(self, features: tuple[Feature, ...]) -> KeptView | None:
        """The view that keeps these states of all tokens; None where there is no room."""
        of_a_token = 4 * self.teacher.model.hidden_size * max(place.stop for place in columns_of(features).values())
        # Each candidate has two tokens at least, so a large graph is told without its texts.
        fewest = 2 * len(np.unique(self.triples[:, 2]))
        if self.teacher.device.type != "cpu" or of_a_token * fewest > self.limit:
            return None
        sides = self.texts()
        if of_a_token * sum(len(texts.tokens) for texts in sides) > self.limit:
            return None
        longest = max(texts.longest for texts in sides)
        at_once = max(1, MIB_AT_ONCE * MIB // (of_a_token * longest))
        self.counted.append(sides)
        return KeptView(lambda texts, epoch: texts, features=features, whole=True, texts_at_once=at_once)


def _views(
    config: TrialConfig, trainer: Trainer, kept: _Kept, room: _Room, clean: Needs | None, corrupted: Needs | None
) -> list[KeptView]:
    """The views that the terms ask a teacher about and that come again: of whole texts vectors are kept, and states where there is room; of masked tokens states too."""
    corruption, views, number = trainer.corruption, [], trainer.corruption.number
    folders = partial(_folders, config, trainer.student.precision, kept)
    if corruption.shared:
        corrupted = either(clean, corrupted)
    elif clean is not None and not clean.layers:
        views.append(KeptView(lambda texts, epoch: texts, folders(lambda epoch: "clean", ())))
    elif clean is not None and (whole := room.view(in_order(clean.layers))):
        views.append(whole)
    if number is None or corruption.ratio == 0 or corrupted is None:
        return views
    if corrupted.layers and not corrupted.masked_only:
        return views
    layers = tuple(sorted(layer for layer in corrupted.layers if isinstance(layer, int)))

    def turn(epoch: int) -> int:
        return epoch % number

    def seen(texts: Texts, epoch: int) -> Texts:
        return corruption.fixed(texts, epoch).texts

    corrupted_at = folders(lambda epoch: [corruption.ratio, corruption.seed, turn(epoch)], layers)
    return [*views, KeptView(seen, corrupted_at, turn if number > 1 else None, layers)]


def _folders(
    config: TrialConfig,
    precision: Precision,
    kept: _Kept,
    view_of: Callable[[int], Any],
    layers: tuple[int, ...],
) -> Callable[[int], Path] | None:
    """The folder of what an epoch sees, named after everything that has a part in it."""
    taught = kept.folder
    if taught is None:
        return None
    data, training = config.data.model_dump(mode="json", exclude={"path"}), config.training
    ground: list[Any] = [kept.teacher, config.data_fingerprint, data, config.encoder_fingerprint]
    # The texts of one part are others than those of all, or of another division.
    ground += [] if kept.part is None else [kept.part]
    tokens = tokens_at_once(training.tokens_per_micro_batch, best_device())
    manner = [precision, tokens, config.contrastive.self_negatives, layers]

    def folder(epoch: int) -> Path:
        content = json.dumps([ground, manner, view_of(epoch)], sort_keys=True)
        return taught / hashlib.sha256(content.encode()).hexdigest()[:16]

    return folder
