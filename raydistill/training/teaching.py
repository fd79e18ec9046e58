"""Where a trial's teacher outputs come from: nobody, the teacher itself, or what is kept of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raydistill.config.trial import TrialConfig
from raydistill.data.texts import Texts
from raydistill.devices import best_device, tokens_at_once
from raydistill.models.biencoder import BiEncoder, Precision
from raydistill.models.features import Needs
from raydistill.teachers.cache import CachedTeacher, KeptView
from raydistill.teachers.several import SeveralTeachers
from raydistill.teachers.shards import KeptTeachers
from raydistill.teachers.structural import OtherTeacher, StructuralModel, StructuralTeacher
from raydistill.teachers.views import LiveTeacher, NoTeacher, TeacherSource
from raydistill.training.outputs import either
from raydistill.training.terms.term import wanted_on
from raydistill.training.trainer import Trainer


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
        trainer: its terms say what is asked for, its corruption what the texts look like.
        kept: where outputs are kept, which turns to these teachers; None = in memory.
        others: who teaches beside it.
    """
    if model is None:
        return NoTeacher()
    assert config.teacher is not None
    wanted = wanted_on(trainer.terms, "clean").teacher, wanted_on(trainer.terms, "corrupted").teacher
    asked = tuple(Needs() if needs is not None and needs.others else None for needs in wanted)
    references, needs_of = (config.teacher, *config.others), (wanted, *(asked for _ in others))
    digests = [one.digest for one in references]
    remembers = config.training.remember_teacher and trainer.source.triples is not None
    folders = kept.folders(digests) if kept is not None and remembers else [None for _ in digests]
    sources = [
        _source(config, taught, trainer, _Kept(digest, folder), *needs)
        for digest, folder, taught, needs in zip(digests, folders, (model, *others), needs_of, strict=True)
    ]
    return SeveralTeachers(sources[0], sources[1:]) if others else sources[0]


@dataclass(frozen=True)
class _Kept:
    """Whose outputs are kept where; no folder = in memory."""

    teacher: str
    folder: Path | None


def _source(
    config: TrialConfig,
    model: OtherTeacher,
    trainer: Trainer,
    kept: _Kept,
    clean: Needs | None,
    corrupted: Needs | None,
) -> TeacherSource:
    """One teacher, of which so much is wanted on each view."""
    if isinstance(model, StructuralModel):
        return StructuralTeacher(model)
    live, triples = LiveTeacher(model), trainer.source.triples
    if not config.training.remember_teacher or triples is None:
        return live
    views = _views(config, trainer, kept, clean, corrupted)
    if not views:
        return live
    texts = trainer.builder.all_texts(triples)
    return CachedTeacher(live, *texts, views, trainer.corruption.mask_id, trainer.world.rank)


def _views(
    config: TrialConfig, trainer: Trainer, kept: _Kept, clean: Needs | None, corrupted: Needs | None
) -> list[KeptView]:
    """The views that the terms ask a teacher about and that come again: of whole texts vectors are kept, of masked tokens states too."""
    corruption, views, number = trainer.corruption, [], trainer.corruption.number
    folders = partial(_folders, config, trainer.student.precision, kept)
    if corruption.shared:
        corrupted = either(clean, corrupted)
    elif clean is not None and not clean.layers:
        views.append(KeptView(lambda texts, epoch: texts, folders(lambda epoch: "clean", ())))
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
    return [*views, KeptView(seen, corrupted_at, turn, layers)]


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
    ground = [kept.teacher, config.data_fingerprint, data, config.encoder_fingerprint]
    tokens = tokens_at_once(training.tokens_per_micro_batch, best_device())
    manner = [precision, tokens, config.contrastive.self_negatives, layers]

    def folder(epoch: int) -> Path:
        content = json.dumps([ground, manner, view_of(epoch)], sort_keys=True)
        return taught / hashlib.sha256(content.encode()).hexdigest()[:16]

    return folder
