"""What a campaign stands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from raydistill.config.trial import TeacherReference


@dataclass(frozen=True)
class Ground:
    """What a campaign stands on, found out before anything is trained.

    Attributes:
        dataset_fingerprint: SHA-256 of the dataset's content.
        encoder_fingerprint: SHA-256 of the pre-trained weights and tokenizer files.
        encoder_layers: depth of the pre-trained encoder.
        given_teacher: the checkpoint named by `teacher.checkpoint`, or None when the teacher is trained.
        given_teacher_layers: its depth.
        encoder_width: hidden units of the pre-trained encoder; None where that is not known.
        num_relations: relations that have a training triple; None likewise.
        epoch_examples: examples of an epoch, also of methods that read no triple; None likewise.
        others: the checkpoints and structural models that methods name as teachers, by the places they name.
        structural: digests of those of them that are structural models.
        encoder_intermediate: units of its feed-forward layers.
        encoder_vocabulary: tokens it knows.
        encoder_heads: of its attention, and of that of every model made of it.
        given_teacher_width: hidden units of the given teacher, which may be made of another encoder.
        given_teacher_intermediate: units of its feed-forward layers.
        given_teacher_heads: of its attention.
        given_teacher_tokens: longest text it has positions for.
        given_teacher_foreign: whether its tokenizer is another than the encoder's.
    """

    dataset_fingerprint: str
    encoder_fingerprint: str
    encoder_layers: int
    given_teacher: TeacherReference | None = None
    given_teacher_layers: int | None = None
    encoder_width: int | None = None
    num_relations: int | None = None
    epoch_examples: int | None = None
    others: Mapping[str, TeacherReference] = field(default_factory=dict)
    structural: frozenset[str] = frozenset()
    encoder_intermediate: int | None = None
    encoder_heads: int | None = None
    encoder_vocabulary: int | None = None
    given_teacher_width: int | None = None
    given_teacher_intermediate: int | None = None
    given_teacher_heads: int | None = None
    given_teacher_tokens: int | None = None
    given_teacher_foreign: bool = False
