"""What a trial is built from: its student, terms, optimizer and corruption, each from the configuration and what was there before it."""

from __future__ import annotations

import numpy as np
import torch

from raydistill.config.trial import TrialConfig
from raydistill.data.assembly import TextAssembler
from raydistill.data.batches import BatchBuilder, Source
from raydistill.devices import best_device, tokens_at_once
from raydistill.kg.store import Dataset
from raydistill.kg.triples import IntArray
from raydistill.models.biencoder import BiEncoder, Precision
from raydistill.models.loading import load_encoder
from raydistill.models.pretrained import EncoderFacts
from raydistill.models.vocabulary import trim_embeddings
from raydistill.students.build import build_model
from raydistill.students.reshaping import Reshaper
from raydistill.teachers.structural import OtherTeacher
from raydistill.training.methods.registry import METHODS, assemble, reshaping
from raydistill.training.methods.shapes import Shape, Shapes
from raydistill.training.optimizer import Optimizer
from raydistill.training.own import Own, own_of
from raydistill.training.progress import Corruption
from raydistill.training.terms.term import Term


def corruption_of(config: TrialConfig, mask_id: int) -> Corruption:
    """How its texts are corrupted."""
    return METHODS[config.method.name].corruption(config, mask_id)


def terms_of(config: TrialConfig, student: BiEncoder, teacher: BiEncoder | None, dataset: Dataset) -> tuple[Term, ...]:
    """The terms, with what they have of their own on the student's device."""
    terms = assemble(config, Shapes(Shape.of(student), Shape.of(teacher), dataset))
    for module in own_of(terms).values():
        module.to(student.log_inverse_temperature.device)
    return terms


def reshapers_of(config: TrialConfig, student: BiEncoder, steps: int) -> tuple[Reshaper, ...]:
    """What reshapes the student in so many steps; each has made it ready."""
    reshapers = reshaping(config, Shape.of(student), steps)
    for reshaper in reshapers:
        reshaper.prepare(student)
    return reshapers


def source_of(config: TrialConfig, dataset: Dataset) -> Source:
    """Where its examples come from."""
    return METHODS[config.method.name].source(config, dataset)


def builder_of(config: TrialConfig, dataset: Dataset, assembler: TextAssembler) -> BatchBuilder:
    """What makes batches of them; `assembler` has the texts of evaluation."""
    return METHODS[config.method.name].builder(config, dataset, assembler)


def told_apart_of(config: TrialConfig, dataset: Dataset) -> IntArray | None:
    """The part of each relation, and of each inverse, where its validations tell parts apart."""
    told_apart = METHODS[config.method.name].told_apart
    return None if told_apart is None else told_apart(config, dataset)


def optimizer_of(config: TrialConfig, student: BiEncoder, own: Own, steps: int) -> Optimizer:
    """The optimizer of a student and of what terms have of their own."""
    return Optimizer(
        student,
        learning_rate=config.training.learning_rate,
        weight_decay=config.training.weight_decay,
        warmup_steps=round(config.training.warmup_ratio * steps),
        total_steps=steps,
        own=own,
    )


def student_of(config: TrialConfig, facts: EncoderFacts, teacher: BiEncoder | None, precision: Precision) -> BiEncoder:
    """The student at its beginning: layers of its teacher, or of the pre-trained encoder."""
    if config.init == "teacher":
        assert teacher is not None
        query, entity = teacher.query_encoder, teacher.entity_encoder
    else:
        query = entity = load_encoder(facts.folder)
    return build_model(
        query,
        entity,
        config.layer_map,
        shared_towers=config.encoder.shared_towers,
        pooling=config.encoder.pooling,
        temperature=config.contrastive.temperature,
        train_temperature=config.contrastive.train_temperature,
        tokens_per_micro_batch=tokens_at_once(config.training.tokens_per_micro_batch, best_device()),
        precision=precision,
        dropout=config.encoder.dropout,
    )


def trim(assembler: TextAssembler, *models: OtherTeacher | None) -> None:
    """Keep only the embedding rows that texts of this graph, masks and padding can name."""
    present = [model for model in models if isinstance(model, BiEncoder)]
    if not present:
        return
    padding = present[0].query_encoder.config.pad_token_id  # type: ignore[union-attr]
    # The encoder's own padding token may be another than the tokenizer's, and is the one that pads.
    extra = np.array([assembler.layout.mask_id, assembler.layout.pad_id, padding or 0], np.int64)
    used = torch.from_numpy(np.union1d(assembler.token_ids(), extra))
    for model in present:
        trim_embeddings(model.query_encoder, used)
        trim_embeddings(model.entity_encoder, used)
