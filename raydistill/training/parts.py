"""The parts of a trial, built from its configuration: graph, student, teacher, terms, trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.data.assembly import TextAssembler
from raydistill.data.graph import text_assembler
from raydistill.devices import best_device
from raydistill.evaluation import encode
from raydistill.evaluation.protocol import LinkPredictionTask
from raydistill.kg.text import TextRule
from raydistill.kg.triples import IntArray
from raydistill.models.biencoder import BiEncoder
from raydistill.models.loading import load_tokenizer
from raydistill.models.precision import chosen_precision
from raydistill.students.reshaping import Standing
from raydistill.teachers.shards import KeptTeachers
from raydistill.teachers.structural import OtherTeacher
from raydistill.teachers.views import NoTeacher
from raydistill.training.building import (
    builder_of,
    corruption_of,
    optimizer_of,
    reshapers_of,
    source_of,
    student_of,
    terms_of,
    told_apart_of,
    trim,
)
from raydistill.training.gather import World
from raydistill.training.ground import checked_dataset, checked_encoder, checked_others, checked_teacher
from raydistill.training.optimizer import Optimizer
from raydistill.training.own import own_of
from raydistill.training.record import trial_record
from raydistill.training.standing import DEPTH, SELECTION, as_variant, rankings, standing
from raydistill.training.teaching import teacher_source
from raydistill.training.trainer import Trainer

UNFINISHED = "unfinished"
"""Begins the names of metrics of a student that is still being brought to its shape."""


@dataclass(frozen=True)
class TrialParts:
    """What a trial works with.

    Args:
        config: the trial.
        tokenizer_folder: where the tokenizer's files are.
        record: the part of the checkpoint record that does not change while training.
        student: the model being trained.
        optimizer: its optimizer.
        trainer: the loop.
        assembler: the graph's texts.
        task: the validation queries.
        kept: where teachers' outputs are kept; None = in memory.
        others: who teaches beside the teacher.
        told_apart: `(2R,)` the part of each relation, whose validation MRR is told beside the whole; None = nothing is told apart.
    """

    config: TrialConfig
    tokenizer_folder: Path
    record: dict[str, Any]
    student: BiEncoder
    optimizer: Optimizer
    trainer: Trainer
    assembler: TextAssembler
    task: LinkPredictionTask
    kept: KeptTeachers | None = None
    others: tuple[OtherTeacher, ...] = ()
    told_apart: IntArray | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return self.trainer.source.steps_per_epoch

    def restore_shape(self, records: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
        """Bring the student to the shape in which it was saved, before its weights are loaded."""
        structure = self.trainer.structure
        structure.restore(records, tensors)
        if structure.reshapers:
            self.trainer.reshaped()

    def taught_by(self, teacher: TeacherReference) -> TrialParts:
        """The same parts under another teacher: verified and loaded between two epochs; nothing else changes.

        Raises:
            TeacherError: the teacher is damaged, or not the one that was announced.
        """
        config = self.config.model_copy(update={"teacher": teacher})
        facts = checked_encoder(config)
        # Two teachers at a time may be more than there is memory for.
        self.trainer.teacher = NoTeacher()
        model = checked_teacher(config, facts, self.student.precision)
        if config.training.trim_vocabulary:
            trim(self.assembler, model)
        if model is not None:
            model.to(self.student.log_inverse_temperature.device)
        self.trainer.teacher = teacher_source(config, model, self.trainer, self.kept, self.others)
        record = {**trial_record(config, facts, self.student.precision), "identity": self.record["identity"]}
        return replace(self, config=config, record=record)

    def validate(self, before_part: Callable[[int], None] | None = None, *, last: bool = False) -> dict[str, float]:
        """Metrics on the validation split with the current weights, in float32 like every other ranking.

        All workers of the trial must call: each ranks a part of the entities, and all get the metrics. What is inside the student and is to be
        validated beside it is `valid/<variant>/...`; after the last epoch it may take the student's place, and the metrics are then its own.

        Args:
            before_part: called before each micro-batch that this worker encodes.
            last: whether this is after the last epoch.

        Raises:
            OutOfMemoryError: it does not fit into memory.
        """
        trainer, config, structure = self.trainer, self.config, self.trainer.structure

        def ranked() -> dict[str, dict[str, float]]:
            # From its beginning where memory runs out: all workers deal out the same micro-batches, and all vectors of a ranking are encoded alike.
            variants = structure.variants if last else {}
            return rankings(
                self.student, variants, self.assembler, self.task, trainer.world, before_part, self.told_apart
            )

        def teacher() -> Standing:
            assert config.teacher is not None
            return standing(
                config.teacher.path,
                config.data.path,
                config.data_fingerprint,
                trainer.world,
                config.training.gradient_cache,
            )

        precision, self.student.precision = self.student.precision, "fp32"
        try:
            found = trainer.memory.encode(ranked, "a validation", self.assembler.max_tokens, trainer.teacher)
        finally:
            self.student.precision = precision
        inner = {name: found[name][SELECTION] for name in found if name}
        own, became = found[""], structure.after_validation(inner, last, teacher)
        if became is not None:
            trainer.reshaped()
            own = {**found[became.variant], DEPTH: float(self.student.num_layers), **became.told}
        # Of a shape that nobody asked for: not to be mistaken for one that may be promoted.
        start = "" if structure.complete else f"{UNFINISHED}/"
        beside = {key: value for name in inner for key, value in as_variant(name, found[name]).items()}
        return {**{f"{start}{name}": value for name, value in own.items()}, **beside}


def build_parts(
    config: TrialConfig, world: World, teacher: TeacherReference | None = None, kept: KeptTeachers | None = None
) -> TrialParts:
    """Build everything a trial needs, at its beginning.

    Args:
        config: the trial.
        world: its workers.
        teacher: its teacher at this moment, where teachers change.
        kept: where teachers' outputs are kept for all trials of the grade; None = in memory.

    Raises:
        DataError: the dataset is not the one the trial was planned with, or is damaged.
        EncoderError: the encoder is missing or not the one the trial was planned with.
        TeacherError: the teacher is damaged, or not the one the trial was planned with.
        CapabilityError: the teacher has another tokenizer, or a structural one another dataset.
    """
    identity, device = config.identity, best_device()
    if device.type == "cuda":
        # What is left to the processor are many small tensors, and to gather threads for each takes longer than the tensor.
        torch.set_num_threads(1)
    # Identities are those of the wish, so that a trial may go on on another machine.
    precision = chosen_precision(config.training.precision, device)
    if teacher is not None:
        config = config.model_copy(update={"teacher": teacher})
    dataset = checked_dataset(config)
    facts = checked_encoder(config)
    tokenizer = load_tokenizer(facts.folder)
    rule = TextRule(config.data.max_neighbors, config.data.short_description_words)
    assembler = text_assembler(
        dataset, tokenizer, facts.tokenizer_fingerprint, rule=rule, max_tokens=config.data.max_tokens
    )
    teacher_model, others = checked_teacher(config, facts, precision), checked_others(config, facts, precision)
    student = student_of(config, facts, teacher_model, precision)
    if config.training.trim_vocabulary:
        trim(assembler, student, teacher_model, *others)
    for model in filter(None, (student, teacher_model, *others)):
        model.to(device)
    source = source_of(config, dataset)
    builder = builder_of(config, dataset, assembler)
    terms = terms_of(config, student, teacher_model, dataset)
    reshapers = reshapers_of(config, student, source.steps_per_epoch * config.training.epochs)
    optimizer = optimizer_of(config, student, own_of(terms), source.steps_per_epoch * config.training.epochs)
    trainer = Trainer(
        student,
        NoTeacher(),
        terms,
        source,
        builder,
        optimizer,
        corruption_of(config, assembler.layout.mask_id),
        max_gradient_norm=config.training.max_gradient_norm,
        seed=config.seed,
        world=world,
        pre_batch=config.contrastive.pre_batch,
        measure_gradients=config.training.measure_gradients,
        gradient_cache=config.training.gradient_cache,
        reshapers=reshapers,
    )
    trainer.teacher = teacher_source(config, teacher_model, trainer, kept, others)
    record = {**trial_record(config, facts, precision), "identity": identity}
    return TrialParts(
        config,
        facts.folder,
        record,
        student,
        optimizer,
        trainer,
        assembler,
        encode.link_prediction_task(dataset, "valid"),
        kept,
        others,
        told_apart_of(config, dataset),
    )
