"""Where a trial's teacher outputs come from: nobody, the teacher itself, or what is kept of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from raydistill.config.trial import TrialConfig
from raydistill.data.texts import Texts
from raydistill.devices import best_device, tokens_at_once
from raydistill.models.biencoder import BiEncoder, Precision
from raydistill.teachers.cache import CachedTeacher, KeptView
from raydistill.teachers.shards import KeptTeachers
from raydistill.teachers.views import LiveTeacher, NoTeacher, TeacherSource
from raydistill.training.terms import wanted_on
from raydistill.training.trainer import Trainer


def teacher_source(
    config: TrialConfig, model: BiEncoder | None, trainer: Trainer, kept: KeptTeachers | None
) -> TeacherSource:
    """The source for a trial's trainer.

    Args:
        config: the trial, with the teacher of the moment.
        model: that teacher; None where nothing of the trial looks at one.
        trainer: its terms say what is asked for, its corruption what the texts look like.
        kept: where outputs are kept, which turns to this teacher; None = in memory.
    """
    if model is None:
        return NoTeacher()
    live = LiveTeacher(model)
    triples = trainer.source.triples
    views = _views(config, trainer, kept) if config.training.remember_teacher and triples is not None else []
    if not views or triples is None:
        return live
    texts = trainer.builder.all_texts(triples)
    return CachedTeacher(live, *texts, views, trainer.corruption.mask_id, trainer.world.rank)


def _views(config: TrialConfig, trainer: Trainer, kept: KeptTeachers | None) -> list[KeptView]:
    """The views that the terms ask a teacher about and that come again: of whole texts vectors are kept, of masked tokens states too."""
    corruption, views, number = trainer.corruption, [], trainer.corruption.number
    folders = partial(_folders, config, trainer.student.precision, kept)
    clean, corrupted = wanted_on(trainer.terms, "clean"), wanted_on(trainer.terms, "corrupted")
    if corruption.shared:
        corrupted = clean | corrupted
    elif clean.teacher is not None and not clean.teacher.layers:
        views.append(KeptView(lambda texts, epoch: texts, folders(lambda epoch: "clean", ())))
    wanted = corrupted.teacher
    if number is None or corruption.ratio == 0 or wanted is None or (wanted.layers and not wanted.masked_only):
        return views
    layers = tuple(sorted(layer for layer in wanted.layers if isinstance(layer, int)))

    def turn(epoch: int) -> int:
        return epoch % number

    def seen(texts: Texts, epoch: int) -> Texts:
        return corruption.fixed(texts, epoch).texts

    corrupted_at = folders(lambda epoch: [corruption.ratio, corruption.seed, turn(epoch)], layers)
    return [*views, KeptView(seen, corrupted_at, turn, layers)]


def _folders(
    config: TrialConfig,
    precision: Precision,
    kept: KeptTeachers | None,
    view_of: Callable[[int], Any],
    layers: tuple[int, ...],
) -> Callable[[int], Path] | None:
    """The folder of what an epoch sees, named after everything that has a part in it."""
    if kept is None:
        return None
    assert config.teacher is not None
    taught = kept.folder(config.teacher.digest)
    data, training = config.data.model_dump(mode="json", exclude={"path"}), config.training
    ground = [config.teacher.digest, config.data_fingerprint, data, config.encoder_fingerprint]
    tokens = tokens_at_once(training.tokens_per_micro_batch, best_device())
    manner = [precision, tokens, config.contrastive.self_negatives, layers]

    def folder(epoch: int) -> Path:
        content = json.dumps([ground, manner, view_of(epoch)], sort_keys=True)
        return taught / hashlib.sha256(content.encode()).hexdigest()[:16]

    return folder
