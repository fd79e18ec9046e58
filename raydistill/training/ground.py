"""What a trial stands on, checked against what it was planned with: the dataset, the pre-trained encoder, the teacher."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from raydistill.config.methods import has_teacher
from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.errors import CapabilityError, CheckpointError, DataError, EncoderError, TeacherError
from raydistill.kg.store import Dataset
from raydistill.models.biencoder import BiEncoder, Precision
from raydistill.models.pretrained import EncoderFacts, locate_encoder, tokenizer_digest
from raydistill.teachers.structural import OtherTeacher
from raydistill.training.checkpoint import is_structural, load_model, read_record
from raydistill.training.manifest import verify_checkpoint
from raydistill.training.structural.folder import load_structural


def checked_dataset(config: TrialConfig) -> Dataset:
    """The dataset of a trial.

    Raises:
        DataError: it is damaged, or not the one the trial was planned with.
    """
    dataset = Dataset.load(config.data.path)
    if dataset.fingerprint != config.data_fingerprint:
        raise DataError(
            f"{config.data.path} has fingerprint {dataset.fingerprint[:12]}",
            expected=f"{config.data_fingerprint[:12]}, the dataset the campaign began with",
            consequence="trials of one campaign would be trained on different graphs",
            remedy="restore the dataset, or begin a new run directory",
        )
    return dataset


def checked_encoder(config: TrialConfig) -> EncoderFacts:
    """The pre-trained encoder of a trial.

    Raises:
        EncoderError: it is missing, or not the one the trial was planned with.
        CapabilityError: the trial's texts are longer than it reads.
    """
    facts = locate_encoder(config.encoder.name)
    facts.require_positions(config.data.max_tokens)
    if facts.fingerprint != config.encoder_fingerprint:
        raise EncoderError(
            f"encoder {config.encoder.name} has fingerprint {facts.fingerprint[:12]}",
            expected=f"{config.encoder_fingerprint[:12]}, the encoder the campaign began with",
            consequence="trials of one campaign would start from different weights",
            remedy="install the former version, or begin a new run directory",
        )
    return facts


def checked_teacher(config: TrialConfig, facts: EncoderFacts, precision: Precision = "fp32") -> BiEncoder | None:
    """The teacher, in the precision of the student, where the method or the initial layers want one.

    Raises:
        TeacherError: it is damaged, or not the one the trial was planned with.
        CapabilityError: it reads other token ids than the student.
    """
    if config.teacher is None or (not has_teacher(config.method) and config.init == "pretrained"):
        return None
    return _checked(config.teacher, config, facts, precision)


def checked_others(config: TrialConfig, facts: EncoderFacts, precision: Precision = "fp32") -> tuple[OtherTeacher, ...]:
    """Who teaches beside the teacher, or in its place, structural models among them; a checkpoint that is there twice is one model.

    Raises as `checked_teacher` does.

    Raises:
        CapabilityError: a structural model was trained on another dataset.
    """
    distinct = {one.digest: one for one in config.others}
    models = {digest: _checked_other(one, config, facts, precision) for digest, one in distinct.items()}
    return tuple(models[one.digest] for one in config.others)


def _checked_other(
    reference: TeacherReference, config: TrialConfig, facts: EncoderFacts, precision: Precision
) -> OtherTeacher:
    with about_teacher():
        _verify(reference)
        if is_structural(reference.path):
            return load_structural(reference.path, config.data_fingerprint, verify=False)
    return _loaded(reference, config, facts, precision)


def _checked(reference: TeacherReference, config: TrialConfig, facts: EncoderFacts, precision: Precision) -> BiEncoder:
    with about_teacher():
        _verify(reference)
        # Refuses a structural model, which has no states and no layers to begin with.
        read_record(reference.path)
    return _loaded(reference, config, facts, precision)


def _verify(reference: TeacherReference) -> None:
    """Check every byte, and that it is the one.

    Raises:
        CheckpointError: it is damaged.
        TeacherError: it is another one.
    """
    digest = verify_checkpoint(reference.path)
    if digest != reference.digest:
        raise TeacherError(
            f"teacher {reference.path} has digest {digest[:12]}",
            expected=f"{reference.digest[:12]}, the checkpoint that was promoted, or given",
            consequence="the student would learn from another teacher than the one on record",
            remedy="restore that checkpoint, or begin a new run directory",
        )


def _loaded(reference: TeacherReference, config: TrialConfig, facts: EncoderFacts, precision: Precision) -> BiEncoder:
    path, settings = Path(reference.path), config.training
    if tokenizer_digest(path / "tokenizer") != facts.tokenizer_fingerprint:
        raise CapabilityError(
            f"teacher {path} has another tokenizer than encoder {config.encoder.name}",
            expected="one tokenizer for teacher and student",
            consequence="the teacher would read the student's token ids as other words",
            remedy="start the student from the encoder that the teacher was made of",
        )
    return load_model(path, verify=False, tokens_per_micro_batch=settings.tokens_per_micro_batch, precision=precision)


@contextlib.contextmanager
def about_teacher() -> Iterator[None]:
    """Say of a checkpoint that it is the teacher's: unlike those of the trial itself, another one may take its place.

    Raises:
        TeacherError: it is damaged or missing.
    """
    try:
        yield
    except CheckpointError as problem:
        parts = {name: getattr(problem, name) for name in ("expected", "consequence", "remedy")}
        raise TeacherError(problem.received, **parts) from None
