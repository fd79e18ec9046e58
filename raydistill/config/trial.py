"""What one trial is: every value resolved, nothing left to search. Its fingerprint is the trial's identity, so equal work is done once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from pydantic import Field

from raydistill.config.methods import Method, as_first_written, without_idle
from raydistill.config.schema import DataSection, EncoderSection
from raydistill.config.space import Init, Section, View
from raydistill.config.training import HARMLESS_TRAINING, ContrastiveSection, TrainingSection


class TeacherReference(Section):
    """A promoted checkpoint that teaches."""

    path: str
    digest: str = Field(description="SHA-256 of the checkpoint's manifest")


TeacherAt = Callable[[int], TeacherReference | None]
Bring = Callable[[TeacherReference], TeacherReference]
"""Who teaches an epoch, from 0; None = nobody yet, so the trial has to wait."""


class TrialConfig(Section):
    """One training run, resolved."""

    data: DataSection
    data_fingerprint: str
    encoder: EncoderSection
    encoder_fingerprint: str = Field(description="SHA-256 of the pre-trained weights and tokenizer files")
    contrastive: ContrastiveSection
    training: TrainingSection
    method: Method
    layers: int
    layer_map: tuple[int, ...] = Field(description="layers of the initial model, zero-based, one per student layer")
    init: Init = "pretrained"
    mask_ratio: float = 0.0
    view: View = "separate"
    teacher: TeacherReference | None = Field(
        None, description="for a trial whose teacher changes: the grade above in place of a digest, and no path"
    )
    others: tuple[TeacherReference, ...] = Field((), description="who teaches beside it, where a method has several")
    settle_epochs: int | None = Field(None, description="last epochs under the final teacher; None = it never changes")
    seed: int = 0

    @property
    def identity(self) -> str:
        """Sixteen hex digits that name this work: equal identities are equal work.

        Paths do not count (a dataset or teacher may be moved), contents do; neither does what cannot change the result.
        """
        content = self.model_dump(mode="json")
        content["data"].pop("path")
        content["encoder"].pop("name")
        if self.teacher is not None:
            content["teacher"].pop("path")
        for other in content["others"]:
            other.pop("path")
        if not self.others:
            content.pop("others")
        for name in HARMLESS_TRAINING:
            content["training"].pop(name)
        if self.training.corruptions is None or self.mask_ratio == 0:
            content["training"].pop("corruptions")
        if self.settle_epochs is None:
            content.pop("settle_epochs")
        content["method"] = as_first_written(without_idle(content["method"], self.mask_ratio))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
